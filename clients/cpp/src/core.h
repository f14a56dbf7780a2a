// The lock, the clock and the gRPC streams around a Node.
#ifndef MESHNODE_SRC_CORE_H_
#define MESHNODE_SRC_CORE_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "node.h"

namespace meshnode {

class Core : public std::enable_shared_from_this<Core> {
 public:
  Core(std::string address, Options options);
  void Start();  // the thread of time
  void Stop();   // ends it; Close comes first

  // Runs f(node, now) under the lock, and then what it asks for.
  template <class F>
  void With(F f) {
    Act(Locked(std::move(f)));
  }

  // Runs f under the lock. What it asks for is the caller's to give to Act.
  template <class F>
  Effects Locked(F f) {
    std::lock_guard<std::mutex> lock(mu_);
    f(node_, Clock::now());
    if (node_.NextDue() < waits_until_) due_.notify_one();
    return node_.TakeEffects();
  }

  void Act(Effects effects);
  // Has the thread of time delete a stream. gRPC's own threads must not: where its
  // channel is the process's last, they would join themselves.
  void Bury(std::unique_ptr<Port> stream);
  void Close();

 private:
  void Run();

  std::mutex mu_;
  std::condition_variable due_, ended_;
  Node node_;
  Time waits_until_ = Time::min();  // what the thread of time waits for
  int streams_ = 0;  // that were not deleted yet
  std::vector<std::unique_ptr<Port>> buried_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace meshnode

#endif  // MESHNODE_SRC_CORE_H_
