#include <utility>

#include "node.h"

namespace meshnode {
namespace {

constexpr int kMaxFrames = 4096;                // in one gRPC message
constexpr std::size_t kRoundBytes = 64 << 10;   // of parts in a batch with little else
constexpr std::size_t kPartRoom = kPartBytes + 32;  // what a part takes in a batch at the most

}  // namespace

// Frames for one gRPC message.
class Batch {
 public:
  Batch(mesh::v1::LinkRequest* to, std::size_t limit) : to_(to), limit_(limit) {}

  bool empty() const { return to_->frames_size() == 0; }
  std::size_t size() const { return size_; }
  bool Fits(std::size_t n) const { return to_->frames_size() < kMaxFrames && size_ + n <= limit_; }
  mesh::v1::Frame* Add() { return to_->add_frames(); }
  // Keeps the frame that was added last where it fits; the first one always does.
  bool Keep(std::size_t leave) {
    const mesh::v1::Frame& f = to_->frames(to_->frames_size() - 1);
    const std::size_t n = f.ByteSizeLong() + 6;  // its tag and length
    if (to_->frames_size() > 1 && (to_->frames_size() > kMaxFrames || size_ + n + leave > limit_)) {
      to_->mutable_frames()->RemoveLast();
      return false;
    }
    size_ += n;
    return true;
  }

 private:
  mesh::v1::LinkRequest* to_;
  std::size_t limit_, size_ = 0;
};

// Small frames go first, in the order of the line, then a round of parts. A large
// push holds back later messages to its own addressee until its last part has left;
// a large message that may not begin yet is passed by small ones.
Filled Node::Fill(std::uint64_t link, mesh::v1::LinkRequest* batch, Time now) {
  batch->Clear();
  auto it = outlets_.find(link);
  if (it == outlets_.end()) return Filled::kNothing;  // it is cut
  Outlet* o = &it->second;
  if (o->half_closed) return Filled::kNothing;
  Batch b(batch, o->limits.batch);
  if (std::exchange(o->beat, false)) {
    b.Add()->mutable_heartbeat();
    b.Keep(0);
  }
  while (!o->cancels.empty()) {
    mesh::v1::Frame* f = b.Add();
    f->set_session(o->cancels.front());
    f->mutable_cancel();
    if (!b.Keep(0)) break;
    o->cancels.pop_front();
  }
  if (current_ == link) FillLine(o, link, &b, now);
  FillParts(o, &b);
  if (!b.empty()) {
    o->sent = now;
    o->writing = now;
    return Filled::kBatch;
  }
  const bool more = current_ == link && (!line_.empty() || !o->blocked.empty());
  if (!o->ending || !o->Idle() || more) return Filled::kNothing;
  if (!o->drain_until) o->drain_until = now + options_.drain;
  o->half_closed = true;
  return Filled::kHalfClose;
}

void Node::Written(std::uint64_t link) {
  auto it = outlets_.find(link);
  if (it != outlets_.end()) it->second.writing.reset();
}

// Begins messages while the batch has room, leaving some for a part where large
// messages are under way.
void Node::FillLine(Outlet* o, std::uint64_t link, Batch* b, Time now) {
  while (std::optional<Id> id = Next(o)) {
    FirstFrame(At(*id), o->session + 1, now, b->Add());
    if (!b->Keep(o->bulk.empty() ? 0 : kPartRoom)) return;
    Depart(o, *id);
    Begin(o, link, *id);
  }
}

// Gives the message its session.
void Node::Begin(Outlet* o, std::uint64_t link, Id id) {
  Message& m = At(id);
  m.session = ++o->session;
  m.link = link;
  m.place = Place::kSent;
  if (m.large()) o->bulk.Begin(id, m.session, m.payload);
  if (!m.push) {
    o->flights[m.session] = id;
    return;
  }
  o->pushed = m.session;
  if (m.large()) {
    o->aside[m.request.address];
    return;
  }
  ++o->unsure;
  End(id, Reply());
}

// Finds the message that may leave next, setting aside those that may not.
std::optional<Id> Node::Next(Outlet* o) {
  for (;;) {
    const bool full = o->flights.size() >= o->limits.calls;
    if (!o->blocked.empty()) {
      const Message& m = At(*o->blocked.begin());
      if (o->MayBegin(m.payload->size())) {
        return m.push || !full ? std::optional<Id>(*o->blocked.begin()) : std::nullopt;
      }
    }
    if (line_.empty()) return std::nullopt;
    const Id id = *line_.begin();
    Message& m = At(id);
    if (!m.push && full) return std::nullopt;
    if (std::optional<Error> e = o->Refuses(m)) {
      Fail(o, id, *e, &Stats::pushes_lost_too_large);
      continue;
    }
    auto held = o->aside.find(m.request.address);
    if (held != o->aside.end()) {
      held->second.insert(id);
    } else if (m.large() && (!o->blocked.empty() || !o->MayBegin(m.payload->size()))) {
      o->blocked.insert(id);
      if (m.push) o->aside[m.request.address];
    } else {
      return id;
    }
    line_.erase(id);
    m.place = Place::kAside;
  }
}

// Adds a round of parts, one of each payload, and more up to kRoundBytes.
void Node::FillParts(Outlet* o, Batch* b) {
  const std::size_t each = o->bulk.size();
  if (each > 0) o->pushed = o->session;  // only an answer to a later call shows that parts were read
  for (std::size_t n = 0; (n < each || b->size() < kRoundBytes) && b->Fits(kPartRoom); ++n) {
    std::optional<Bulk::Piece> piece = o->bulk.Next();
    if (!piece) return;
    mesh::v1::Frame* f = b->Add();
    f->set_session(piece->session);
    f->mutable_part()->set_payload(std::move(piece->bytes));
    b->Keep(0);
    if (!piece->ended) continue;
    auto it = calls_.find(*piece->ended);
    if (it == calls_.end() || !it->second.push) continue;
    ++o->unsure;
    const Address to = it->second.request.address;
    End(*piece->ended, Reply());
    Release(o, to);
  }
}

// Lets go what a large push has held back: it goes to the front.
void Node::Release(Outlet* o, const Address& to) {
  auto held = o->aside.find(to);
  if (held == o->aside.end()) return;
  for (const Id id : held->second) {
    At(id).place = Place::kLine;
    line_.insert(id);
  }
  o->aside.erase(held);
}

void Node::FirstFrame(const Message& m, std::uint64_t session, Time now, mesh::v1::Frame* f) const {
  const Request& from = m.request;
  f->set_session(session);
  mesh::v1::Request* r = f->mutable_request();
  if (from.address.is_handle()) {
    r->set_handle(from.address.handle());
  } else {
    r->set_name(from.address.name());
  }
  r->set_method(from.method);
  r->set_push(m.push);
  if (m.due) {
    const auto left = std::chrono::duration_cast<std::chrono::microseconds>(*m.due - now).count();
    r->set_time_left_us(static_cast<std::uint64_t>(std::max<std::int64_t>(left, 1)));
  }
  for (const auto& [key, value] : from.headers) {
    mesh::v1::Header* h = r->add_headers();
    h->set_key(key);
    h->set_value(value);
  }
  std::string tag = from.trace_tag;
  if (!tag.empty() && tag[0] != '(') {
    tag = "(" + options_.process + "-" + options_.node + from.address.ToString() + "-" + std::to_string(session) + ")" + tag;
  }
  r->set_trace_tag(tag);
  if (m.large()) {
    r->set_payload(m.payload->substr(0, kPartBytes));
    r->set_total_size(m.payload->size());
  } else {
    r->set_payload(*m.payload);
  }
}

}  // namespace meshnode
