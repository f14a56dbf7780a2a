#include <algorithm>
#include <random>
#include <utility>

#include "node.h"

namespace meshnode {

std::uint64_t Random() {
  static thread_local std::random_device device;
  return static_cast<std::uint64_t>(device()) << 32 | device();
}

// Dials where someone waits for a link and nothing is under way.
void Node::Kick() {
  if (phase_ != Phase::kIdle || closed_ || (line_.empty() && room_.empty())) return;
  phase_ = Phase::kDialling;
  dial_due_ = Time::max();  // Dialling sets it
  ++dial_;
  ++stats_.dials;
  effects_.dials.push_back(dial_);
}

void Node::Dialling(std::uint64_t dial, std::shared_ptr<Port> stream, Time now) {
  if (dial != dial_ || phase_ != Phase::kDialling) {
    effects_.cuts.push_back(std::move(stream));
    return;
  }
  dialled_ = std::move(stream);
  dial_due_ = now + options_.dial_timeout;
  dial_cause_ = "no answer within " + std::to_string(options_.dial_timeout.count()) + " ms";
}

void Node::CutDial() {
  if (dialled_) effects_.cuts.push_back(std::exchange(dialled_, nullptr));
}

bool Node::Opened(std::uint64_t dial, Peer peer, PeerLimits limits, Time now) {
  if (dial != dial_ || phase_ != Phase::kDialling) return false;
  phase_ = Phase::kOpen;
  current_ = dial;
  last_error_.reset();
  Outlet& o = outlets_[dial];
  o.port = std::exchange(dialled_, nullptr);
  o.peer = std::move(peer);
  o.limits = limits;
  o.opened = o.received = o.sent = o.checked = now;
  for (const Id id : line_) {
    Message& m = At(id);
    if (m.push) Settle(&m, Reply());
  }
  Wake(&o);
  return true;
}

void Node::NotOpened(std::uint64_t dial, const std::string& cause, Time now) {
  if (dial != dial_ || phase_ != Phase::kDialling) return;
  CutDial();
  ++stats_.dials_failed;
  const Error e = Pause(cause, now);
  const bool patient = now < left_;
  FailWaiting(e, &Stats::pushes_lost_connect, [patient](const Request& r) { return r.no_wait || (!r.wait_up && !patient); });
}

// Begins the time without dials that follows a failure: exponential, with jitter,
// between the bounds of the backoff.
Error Node::Pause(const std::string& cause, Time now) {
  using Seconds = std::chrono::duration<double>;
  const Seconds least = options_.backoff_min;
  Seconds whole = std::min<Seconds>(least * static_cast<double>(std::uint64_t{1} << std::min(attempts_, 20)), options_.backoff_max);
  const double jitter = static_cast<double>(Random() >> 11) / static_cast<double>(std::uint64_t{1} << 53);
  whole = std::max<Seconds>(whole / 2 + whole / 2 * jitter, least);
  ++attempts_;
  phase_ = Phase::kPause;
  pause_end_ = now + std::chrono::duration_cast<Clock::duration>(whole);
  last_error_ = Error(Verdict::kNotSent, Reason::kConnectFailed, "connect [" + Label() + "] (" + address_ + "): " + cause);
  return *last_error_;
}

}  // namespace meshnode
