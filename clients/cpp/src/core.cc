#include "core.h"

#include "stream.h"

namespace meshnode {

Core::Core(std::string address, Options options) : node_(std::move(address), std::move(options), static_cast<std::uint32_t>(Random()) | 1) {}

void Core::Start() { thread_ = std::thread(&Core::Run, this); }

void Core::Stop() {
  {
    std::lock_guard<std::mutex> lock(mu_);
    stop_ = true;
    due_.notify_one();
  }
  thread_.join();
}

void Core::Act(Effects effects) {
  for (const auto& done : effects.callbacks) done();
  for (const auto& port : effects.cuts) port->Cut();
  for (const auto& port : effects.wakes) port->Wake();
  for (const std::uint64_t dial : effects.dials) {
    {
      std::lock_guard<std::mutex> lock(mu_);
      ++streams_;
    }
    const auto self = shared_from_this();
    std::shared_ptr<Stream>(new Stream(self, dial), [self](Stream* s) { self->Bury(std::unique_ptr<Port>(s)); })->Start();
  }
}

void Core::Bury(std::unique_ptr<Port> stream) {
  std::lock_guard<std::mutex> lock(mu_);
  buried_.push_back(std::move(stream));
  due_.notify_one();
}

void Core::Close() {
  With([](Node& node, Time now) { node.Shut(now); });
  std::unique_lock<std::mutex> lock(mu_);
  ended_.wait(lock, [this] { return node_.Ended() && streams_ == 0; });
}

// Does what is due, and deletes what was buried, until Stop.
void Core::Run() {
  std::unique_lock<std::mutex> lock(mu_);
  while (!stop_) {
    const Time now = Clock::now();
    node_.Tick(now);
    Effects effects = node_.TakeEffects();
    auto buried = std::exchange(buried_, {});
    lock.unlock();
    Act(std::move(effects));
    const int deleted = static_cast<int>(buried.size());
    buried.clear();
    lock.lock();
    streams_ -= deleted;
    ended_.notify_all();
    waits_until_ = node_.NextDue();
    if (stop_ || !buried_.empty() || waits_until_ <= Clock::now()) continue;
    if (waits_until_ == Time::max()) {
      due_.wait(lock);
    } else {
      due_.wait_until(lock, waits_until_);
    }
    waits_until_ = Time::min();
  }
}

}  // namespace meshnode
