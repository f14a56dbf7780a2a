// Large payloads: pieces on their way in and out.
#ifndef MESHNODE_SRC_JOINER_H_
#define MESHNODE_SRC_JOINER_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace meshnode {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;
// Names a message; later ones have higher ids, which is their order in the line.
using Id = std::uint64_t;
// Bytes that are shared and do not change.
using Bytes = std::shared_ptr<const std::string>;

// The largest piece of a payload: a first frame, or a part.
constexpr std::size_t kPartBytes = 32 << 10;

// What a large message of n bytes counts against the unfinished bytes.
inline std::uint64_t Weight(std::uint64_t n) { return std::max<std::uint64_t>(n, 64 << 10); }

// Collects a large payload from its parts. It holds what has arrived, never what
// was announced.
class Joiner {
 public:
  // Begins with the first piece. error is the end of a sentence where that is wrong.
  static std::optional<Joiner> Begin(std::string first, std::uint64_t total, Time now, std::string* error);

  // Appends a part. Done() says whether the payload is whole. False with an error.
  bool Add(const std::string& part, Time now, std::string* error);
  bool Done() const { return have_.size() == total_; }

  std::uint64_t total() const { return total_; }
  Time last() const { return last_; }
  std::string Take() { return std::move(have_); }

 private:
  std::string have_;
  std::uint64_t total_ = 0;
  Time last_;  // when the latest piece arrived
};

// Sends large payloads in turn, within what the receiver takes.
class Bulk {
 public:
  struct Piece {
    std::uint64_t session;
    std::string bytes;
    std::optional<Id> ended;  // whose payload that was the last of
  };

  bool empty() const { return turn_.empty(); }
  std::size_t size() const { return turn_.size(); }
  bool MayBegin(std::uint64_t n, std::uint64_t limit) const { return begun_ + Weight(n) <= limit; }
  // Notes that the first piece is about to leave.
  void Begin(Id id, std::uint64_t session, Bytes payload);
  std::optional<Piece> Next();
  // Forgets the parts that were not sent.
  void Stop(Id id);
  // What is under way: id and session.
  std::vector<std::pair<Id, std::uint64_t>> Ids() const;

 private:
  struct Parcel {
    Id id;
    std::uint64_t session;
    Bytes payload;
    std::size_t offset;
  };
  std::uint64_t begun_ = 0;  // weight of what has begun and not ended
  std::deque<Parcel> turn_;
};

}  // namespace meshnode

#endif  // MESHNODE_SRC_JOINER_H_
