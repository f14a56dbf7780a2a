#include "node.h"

#include <cinttypes>
#include <cstdio>
#include <utility>

namespace meshnode {
namespace {

// What a message counts beside its bytes.
constexpr std::uint64_t kOverhead = 256;

std::string InvalidText(const Message& m) {
  const Request& r = m.request;
  if (r.method.size() > 1024) return "the method has " + std::to_string(r.method.size()) + " bytes; the most is 1024";
  if (r.trace_tag.size() > 1024) return "the trace tag has " + std::to_string(r.trace_tag.size()) + " bytes; the most is 1024";
  const std::size_t headers = HeaderBytes(r.headers);
  if (headers > 8192) return "the headers have " + std::to_string(headers) + " bytes; the most is 8192";
  return "";
}

// What the listener would refuse, and what would not fit into a batch.
std::optional<Error> Invalid(const Message& m) {
  if (!m.request.address.is_handle()) {
    const std::size_t n = m.request.address.name().size();
    if (n < 1 || n > 255) {
      return Error(Verdict::kNotSent, Reason::kInvalidName, "the name of a service has 1 to 255 bytes; this one has " + std::to_string(n));
    }
  }
  const std::string text = InvalidText(m);
  if (text.empty()) return std::nullopt;
  return Error(Verdict::kNotSent, Reason::kInvalidRequest, "invalid request: " + text);
}

// The handler has the same deadline: its error should not come first.
Clock::duration Early(const Message& m) {
  return m.request.timeout > std::chrono::milliseconds(2) ? std::chrono::milliseconds(1) : std::chrono::milliseconds(0);
}

Error Closed() { return Error(Verdict::kNotSent, Reason::kClosed, "the link is closed"); }

}  // namespace

std::string Address::ToString() const {
  if (!is_handle()) return name();
  char text[18];
  std::snprintf(text, sizeof text, ":%016" PRIx64, handle());
  return text;
}

std::uint64_t Message::size() const {
  const std::size_t name = request.address.is_handle() ? 0 : request.address.name().size();
  return payload->size() + name + request.method.size() + request.trace_tag.size() + HeaderBytes(request.headers) + kOverhead;
}

std::optional<Error> Outlet::Refuses(const Message& m) const {
  const std::uint64_t n = m.payload->size();
  std::uint64_t limit = limits.message;
  if (n <= limit) {
    if (n <= kPartBytes || Weight(n) <= limits.unfinished) return std::nullopt;
    limit = limits.unfinished;
  }
  return Error(Verdict::kNotSent, Reason::kTooLarge,
               "too large: " + std::to_string(n) + " bytes; the node takes at most " + std::to_string(limit));
}

void Outlet::Unjoin(Message* m) {
  if (!m->join) return;
  joining -= Weight(m->join->total());
  m->join.reset();
}

Node::Node(std::string address, Options options, std::uint32_t incarnation)
    : address_(std::move(address)), options_(std::move(options)), incarnation_(incarnation) {}

Outlet* Node::Open() {
  auto it = outlets_.find(current_);
  return it == outlets_.end() ? nullptr : &it->second;
}

void Node::WakeOpen() {
  if (Outlet* o = Open()) Wake(o);
}

Id Node::Submit(Request request, bool push, Callback done, Time now) {
  const Id id = ++last_id_;
  Message m(std::move(request));
  m.payload = std::make_shared<const std::string>(std::move(m.request.payload));
  m.request.payload.clear();
  m.push = push;
  m.done = done ? std::move(done) : [](const Result&) {};  // null means settled
  if (m.request.timeout && *m.request.timeout < std::chrono::hours(24 * 365)) m.due = now + *m.request.timeout;

  std::optional<Error> refusal = Refuses(m);
  if (!refusal) refusal = Invalid(m);
  if (!refusal && !push && line_calls_ >= options_.line_calls) {
    refusal = Error(Verdict::kNotSent, Reason::kOverloaded,
                    "the line of node [" + Label() + "] is full: " + std::to_string(line_calls_) + " calls wait");
  }
  if (refusal) {
    Settle(&m, *refusal);
    return id;
  }
  if (m.due) timers_.emplace(*m.due - Early(m), id);
  const bool wait = push && (!room_.empty() || line_push_bytes_ >= options_.line_push_bytes);
  if (wait) {
    m.room_due = now + options_.send_wait;
    timers_.emplace(*m.room_due, id);
    room_.insert(id);
  }
  calls_.emplace(id, std::move(m));
  if (!wait) Enqueue(id);
  Kick();
  return id;
}

// Why a message cannot even wait.
std::optional<Error> Node::Refuses(const Message& m) const {
  if (closed_) return Closed();
  if (phase_ == Phase::kPause && m.request.no_wait) return last_error_;
  auto open = outlets_.find(current_);
  return open == outlets_.end() ? std::nullopt : open->second.Refuses(m);
}

// Hands the outcome to whoever waits, once.
void Node::Settle(Message* m, Result result) {
  if (m->settled()) return;
  if (!result.ok()) {
    Error e = result.error();
    e.node_ = options_.node;
    e.target_ = options_.node + m->request.address.ToString();
    e.method_ = m->request.method;
    result = Result(std::move(e));
  }
  auto told = std::make_shared<Result>(std::move(result));
  effects_.callbacks.push_back([done = std::exchange(m->done, nullptr), told] { done(std::move(*told)); });
}

void Node::Untime(Id id, Message* m) {
  if (m->due) timers_.erase({*m->due - Early(*m), id});
  if (m->room_due) timers_.erase({*m->room_due, id});
  m->due.reset();
  m->room_due.reset();
}

// Ends a message that is in no line and no table but calls_.
void Node::End(Id id, Result result) {
  auto it = calls_.find(id);
  if (it == calls_.end()) return;
  Untime(id, &it->second);
  Settle(&it->second, std::move(result));
  calls_.erase(it);
}

// Puts a message at the end of the line. A push that stands in the line of an open
// link is accepted.
void Node::Enqueue(Id id) {
  Message& m = At(id);
  m.place = Place::kLine;
  if (m.room_due) timers_.erase({*m.room_due, id});
  m.room_due.reset();
  if (phase_ == Phase::kOpen && m.push) Settle(&m, Reply());
  line_.insert(id);
  Count(m, true);
  WakeOpen();
}

void Node::Count(const Message& m, bool comes) {
  if (m.push) {
    line_push_bytes_ += comes ? m.size() : -m.size();
  } else {
    line_calls_ += comes ? 1 : -1;
  }
}

// Takes a message out of the line and lets in who waits for its room.
void Node::Depart(Outlet* o, Id id) {
  const Message& m = At(id);
  line_.erase(id);
  if (o != nullptr) {
    o->blocked.erase(id);
    auto held = o->aside.find(m.request.address);
    if (held != o->aside.end()) held->second.erase(id);
  }
  Count(m, false);
  Admit();
}

void Node::Admit() {
  while (!room_.empty() && line_push_bytes_ < options_.line_push_bytes) {
    const Id id = *room_.begin();
    room_.erase(room_.begin());
    Enqueue(id);
  }
}

void Node::Leave(Id id, Reason reason) {
  auto it = calls_.find(id);
  if (it == calls_.end() || it->second.settled()) return;
  Message& m = it->second;
  const std::string why = reason == Reason::kDeadlineExceeded ? "deadline exceeded" : "cancelled";
  std::string text = "message to [" + Label() + "]: " + why;
  if (m.place == Place::kSent) {
    text += " after it was sent";
  } else if (reason == Reason::kOverloaded) {
    text = "the line of node [" + Label() + "] is full: " + std::to_string(line_push_bytes_) + " bytes of pushes wait";
  } else {
    text += " while it waited to be sent";
    if (phase_ != Phase::kOpen && last_error_) text += std::string(": the last try: ") + last_error_->what();
  }
  if (m.place != Place::kSent) {
    if (m.place == Place::kRoom) {
      room_.erase(id);
    } else {
      Depart(Open(), id);
      WakeOpen();  // what stood behind it may pass now
    }
    End(id, Error(Verdict::kNotSent, reason, text));
    return;
  }
  m.gone = true;
  Untime(id, &m);
  Settle(&m, Error(Verdict::kMaybeExecuted, reason, text));
  m.payload = std::make_shared<const std::string>();
  auto link = outlets_.find(m.link);
  if (link == outlets_.end()) return;
  link->second.bulk.Stop(id);
  link->second.cancels.push_back(m.session);
  Wake(&link->second);
}

// Ends a message of the line. Pushes that were accepted are counted.
void Node::Fail(Outlet* o, Id id, const Error& e, Lost_ lost) {
  if (At(id).push && At(id).settled()) stats_.*lost += 1;
  Depart(o, id);
  End(id, e);
}

// Fails everyone who waits for a link and for whom told is true.
void Node::FailWaiting(const Error& e, Lost_ lost, const std::function<bool(const Request&)>& told) {
  std::vector<Id> waiting(room_.begin(), room_.end());
  waiting.insert(waiting.end(), line_.begin(), line_.end());
  for (const Id id : waiting) {
    if (!told(At(id).request)) continue;
    if (room_.erase(id) > 0) {
      End(id, e);
    } else {
      Fail(nullptr, id, e, lost);
    }
  }
}

// Puts messages that certainly did not start back into the line, in order.
void Node::Resend(Outlet* o, const std::vector<Id>& ids) {
  for (const Id id : ids) {
    Message& m = At(id);
    o->flights.erase(m.session);
    o->bulk.Stop(id);
    o->Unjoin(&m);
    if (m.gone) {
      End(id, Reply());
      continue;
    }
    m.place = Place::kLine;
    if (std::optional<Error> e = Refuses(m)) {
      End(id, *e);
      continue;
    }
    ++stats_.resent;
    Count(m, true);
    line_.insert(id);
  }
  WakeOpen();
}

// Returns to the line what stands aside for a link's bounds.
void Node::TakeBack(Outlet* o) {
  std::set<Id> back = std::exchange(o->blocked, {});
  for (auto& [to, held] : std::exchange(o->aside, {})) back.insert(held.begin(), held.end());
  for (const Id id : back) {
    At(id).place = Place::kLine;
    line_.insert(id);
  }
}

void Node::Shut(Time now) {
  if (closed_) return;
  closed_ = true;
  for (const Id id : std::exchange(room_, {})) End(id, Closed());
  if (Outlet* o = Open()) {
    o->ending = true;
  } else {
    CutDial();
    phase_ = Phase::kIdle;
    FailWaiting(Closed(), &Stats::pushes_lost_closed, [](const Request&) { return true; });
  }
  for (auto& [link, o] : outlets_) {
    if (!o.drain_until) o.drain_until = now + options_.drain;
    Wake(&o);
  }
}

std::optional<Peer> Node::peer() const {
  auto open = outlets_.find(current_);
  return open == outlets_.end() ? std::nullopt : std::optional<Peer>(open->second.peer);
}

}  // namespace meshnode
