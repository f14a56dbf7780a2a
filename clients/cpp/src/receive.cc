#include <algorithm>
#include <utility>

#include "node.h"

namespace meshnode {
namespace {

constexpr std::chrono::seconds kLeaving{30};      // a node that said goaway is
constexpr std::chrono::seconds kPartTimeout{30};  // for the next part of a large reply
constexpr std::chrono::milliseconds kStatusTimeout{200};  // for the status of a stream that has ended
constexpr char kUnreadable[] = "a message that is not protobuf arrived, or one longer than this side takes";
constexpr std::chrono::seconds kSendTimeout{30};  // for one write, before the peer is a slow consumer

Error BadReply(const std::string& why) { return Error(Verdict::kMaybeExecuted, Reason::kInvalidRequest, "invalid large reply: " + why); }

Error TooLarge(std::uint64_t n, std::uint64_t room) {
  return Error(Verdict::kHandlerFailed, Reason::kReplyTooLarge,
               "reply too large: " + std::to_string(n) + " bytes; this process takes " + std::to_string(room) + " now");
}

bool Everyone(const Request&) { return true; }
bool Hasty(const Request& r) { return r.no_wait; }

}  // namespace

bool Node::Take(std::uint64_t link, mesh::v1::LinkResponse* message, Time now, std::string* cause) {
  auto it = outlets_.find(link);
  if (it == outlets_.end()) return true;
  Outlet* o = &it->second;
  o->received = now;
  for (mesh::v1::Frame& f : *message->mutable_frames()) {
    switch (f.body_case()) {
      case mesh::v1::Frame::kReply:
      case mesh::v1::Frame::kFailure:
      case mesh::v1::Frame::kPart:
        if (!Received(o, &f, now)) ++stats_.frames_stray;
        break;
      case mesh::v1::Frame::kGoaway:
        Goaway(o, link, f.goaway(), now);
        break;
      case mesh::v1::Frame::kHeartbeat:
        if (o->peer_stopped && !f.heartbeat().reading_stopped() && o->writing) o->writing = now;  // it has its time anew
        o->peer_stopped = f.heartbeat().reading_stopped();
        break;
      case mesh::v1::Frame::kHello:
        *cause = "protocol error: a second hello";
        return false;
      default:
        ++stats_.frames_stray;
    }
  }
  return true;
}

// Takes a reply, failure or part. False where its session is not known.
bool Node::Received(Outlet* o, mesh::v1::Frame* f, Time now) {
  auto flight = o->flights.find(f->session());
  if (flight == o->flights.end()) return false;
  const Id id = flight->second;
  Message& m = At(id);
  if (f->has_failure() && f->failure().reason() == mesh::v1::REASON_DRAINING && o->leaving && !m.gone) {
    Resend(o, {id});
    Wake(o);  // it may have been the last one
    Kick();
    return true;
  }
  bool stray = false;
  std::optional<Result> result = Answer(o, &m, f, now, &stray);
  if (!result) return !stray;
  o->flights.erase(m.session);
  if (m.session > o->pushed) o->pushed = o->unsure = 0;
  o->bulk.Stop(id);
  o->Unjoin(&m);
  if (m.gone) ++stats_.replies_late;
  End(id, std::move(*result));
  // A place among the calls in flight is free, or a link that ends is done.
  if (o->ending || !line_.empty() || !o->blocked.empty() || !o->cancels.empty()) Wake(o);
  return true;
}

// The outcome that a frame is; none where parts follow, or where it is stray.
std::optional<Result> Node::Answer(Outlet* o, Message* m, mesh::v1::Frame* f, Time now, bool* stray) {
  std::optional<Result> bad;
  if (f->has_failure()) return ReadFailure(f->failure());
  if (f->has_part()) {
    std::string error;
    if (!m->join) {
      *stray = true;
      return std::nullopt;
    }
    if (m->join->Add(f->part().payload(), now, &error)) {
      if (!m->join->Done()) return std::nullopt;
      Reply reply = std::move(m->begun);
      reply.payload = m->join->Take();
      return reply;
    }
    bad = BadReply(error);
  } else if (m->join) {
    bad = BadReply("it has two beginnings");
  } else {
    bad = BeginReply(o, m, f->mutable_reply(), now);
    if (!bad || bad->ok()) return bad;
  }
  o->cancels.push_back(m->session);  // it may stop sending that reply
  return bad;
}

std::optional<Result> Node::BeginReply(Outlet* o, Message* m, mesh::v1::Reply* r, Time now) {
  const std::uint64_t n = r->total_size() == 0 ? r->payload().size() : r->total_size();
  if (n > options_.max_message_bytes) return TooLarge(n, options_.max_message_bytes);
  Reply head{std::move(*r->mutable_payload()), ReadMetadata(r->headers()), ReadMetadata(r->trailers())};
  if (r->total_size() == 0) return head;
  const std::uint64_t room = options_.max_unfinished_bytes - std::min(o->joining, options_.max_unfinished_bytes);
  if (Weight(n) > room) return TooLarge(n, room);
  std::string error;
  m->join = Joiner::Begin(std::move(head.payload), n, now, &error);
  if (!m->join) return BadReply(error);
  o->joining += Weight(n);
  o->bulk.Stop(o->flights.at(m->session));  // a reply stops the rest of its request
  head.payload.clear();
  m->begun = std::move(head);
  return std::nullopt;
}

// Takes a listener's word that it leaves: what it did not take is sent again on the
// next link, in order; pushes among that are lost.
void Node::Goaway(Outlet* o, std::uint64_t link, const mesh::v1::Goaway& g, Time now) {
  if (o->leaving) return;
  o->leaving = true;
  if (current_ == link) {
    left_ = now + kLeaving;
    current_ = 0;
    phase_ = Phase::kIdle;
    o->ending = true;
    TakeBack(o);
    if (g.last_session() == 0 && now - o->opened < options_.backoff_min) {
      FailWaiting(Pause("the node is leaving", now), &Stats::pushes_lost_connect, Hasty);  // it opened only to leave
    } else {
      attempts_ = 0;
    }
  }
  std::uint64_t untaken = o->session - std::min(o->session, g.last_session());
  std::vector<Id> back;
  for (const auto& [session, id] : o->flights) {
    if (session > g.last_session()) back.push_back(id);
  }
  untaken -= back.size();
  for (const auto& [id, session] : o->bulk.Ids()) {
    if (session <= g.last_session() || !At(id).push) continue;
    o->bulk.Stop(id);
    End(id, Reply());
  }
  stats_.pushes_lost_goaway += untaken;
  o->unsure = 0;  // the others were taken
  Resend(o, back);
  if (closed_) FailWaiting(Error(Verdict::kNotSent, Reason::kClosed, "the link is closed"), &Stats::pushes_lost_closed, Everyone);
  Wake(o);
  Kick();
}

void Node::ReadEnded(std::uint64_t link, Time now) {
  auto it = outlets_.find(link);
  if (it != outlets_.end()) {
    it->second.status_due = now + kStatusTimeout;
  } else if (phase_ == Phase::kDialling && link == dial_) {
    dial_due_ = std::min<Time>(dial_due_, now + kStatusTimeout);
    dial_cause_ = kUnreadable;
  }
}

// Everything in flight on the link fails at once.
void Node::Lost(std::uint64_t link, const std::string* cause, Time now) {
  auto it = outlets_.find(link);
  if (it == outlets_.end()) return;
  Outlet o = std::move(it->second);
  outlets_.erase(it);
  effects_.cuts.push_back(o.port);
  const bool orderly = cause == nullptr && o.Idle();
  const std::string why = cause == nullptr ? "the node ended the link" : *cause;
  if (orderly) {
    o.unsure = 0;  // the listener placed what it had read
  } else {
    ++stats_.links_lost;
  }
  const bool current = current_ == link;
  if (current) {
    current_ = 0;
    phase_ = Phase::kIdle;
    TakeBack(&o);
  }
  BreakOff(&o, why);
  if (closed_) {
    if (current_ == 0) {
      FailWaiting(Error(Verdict::kNotSent, Reason::kClosed, "the link is closed"), &Stats::pushes_lost_closed, Everyone);
    }
  } else if (current && now - o.opened < options_.backoff_max) {
    // A link that breaks soon after it opened counts as a failed dial, so that a node
    // that dies again and again is not dialled without a pause.
    FailWaiting(Pause(why, now), &Stats::pushes_lost_connect, Hasty);
  } else if (current) {
    attempts_ = 0;
  }
  Kick();
}

void Node::BreakOff(Outlet* o, const std::string& cause) {
  for (const auto& [id, session] : o->bulk.Ids()) {
    if (!At(id).push) continue;
    ++stats_.pushes_lost_broken;
    End(id, Reply());
  }
  stats_.pushes_unsure += o->unsure;
  const Error e(Verdict::kMaybeExecuted, Reason::kLinkBroken, "link to [" + Label() + "] broke: " + cause);
  for (const auto& [session, id] : o->flights) End(id, e);
}

void Node::Tick(Time now) {
  while (!timers_.empty() && timers_.begin()->first <= now) {
    const auto [due, id] = *timers_.begin();
    timers_.erase(timers_.begin());
    const std::optional<Time> room_due = At(id).room_due;
    Leave(id, room_due == due ? Reason::kOverloaded : Reason::kDeadlineExceeded);
  }
  if (phase_ == Phase::kPause && now >= pause_end_) {
    phase_ = Phase::kIdle;
    Kick();
  }
  if (phase_ == Phase::kDialling && now >= dial_due_) {
    NotOpened(dial_, dial_cause_, now);
  }
  std::vector<std::uint64_t> links;
  for (const auto& [link, o] : outlets_) links.push_back(link);
  for (const std::uint64_t link : links) {
    auto it = outlets_.find(link);
    if (it != outlets_.end()) TickLink(link, &it->second, now);
  }
}

// Looks after a link: heartbeats, silence, a write that is stuck, large replies
// whose parts have stopped.
void Node::TickLink(std::uint64_t link, Outlet* o, Time now) {
  std::string dead;
  if (o->drain_until && now >= *o->drain_until) {
    dead = "the drain time was over";
  } else if (o->status_due && now >= *o->status_due) {
    dead = kUnreadable;
  } else if (now >= o->received + o->limits.silence) {
    dead = "nothing arrived for too long: the peer is dead or cut off";
  } else if (o->writing && !o->peer_stopped && now >= *o->writing + kSendTimeout) {
    dead = "slow consumer: a message could not be sent for 30 s and the peer did not say that it stopped reading";
  }
  if (!dead.empty()) {
    Lost(link, &dead, now);
    return;
  }
  if (now >= o->sent + options_.heartbeat_interval) {
    o->beat = true;
    o->sent = now;
    Wake(o);
  }
  if (now >= o->checked + std::chrono::seconds(1)) {
    o->checked = now;
    Overdue(o, now);
  }
}

// Fails the calls whose large reply has stopped arriving.
void Node::Overdue(Outlet* o, Time now) {
  if (o->joining == 0) return;
  for (const auto& [session, id] : o->flights) {
    Message& m = At(id);
    if (!m.join || now - m.join->last() < kPartTimeout) continue;
    o->Unjoin(&m);
    m.gone = true;
    Untime(id, &m);
    Settle(&m, BadReply("no part for 30 s"));
    o->cancels.push_back(session);
    Wake(o);
  }
}

Time Node::NextDue(const Outlet& o) const {
  Time next = std::min<Time>(o.received + o.limits.silence, o.sent + options_.heartbeat_interval);
  if (o.drain_until) next = std::min(next, *o.drain_until);
  if (o.status_due) next = std::min(next, *o.status_due);
  if (o.writing && !o.peer_stopped) next = std::min<Time>(next, *o.writing + kSendTimeout);
  if (o.joining > 0) next = std::min<Time>(next, o.checked + std::chrono::seconds(1));
  return next;
}

Time Node::NextDue() const {
  Time next = Time::max();
  if (!timers_.empty()) next = timers_.begin()->first;
  if (phase_ == Phase::kPause) next = std::min(next, pause_end_);
  if (phase_ == Phase::kDialling) next = std::min(next, dial_due_);
  for (const auto& [link, o] : outlets_) next = std::min(next, NextDue(o));
  return next;
}

}  // namespace meshnode
