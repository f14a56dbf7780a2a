// Who waits, what is sent and which dial counts.
#ifndef MESHNODE_SRC_NODE_H_
#define MESHNODE_SRC_NODE_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "hello.h"
#include "joiner.h"
#include "mesh/v1/cluster.pb.h"
#include "meshnode/link.h"

namespace meshnode {

// The gRPC stream of a link, as a node sees it. Its methods are called without the
// lock, see Effects.
class Port {
 public:
  virtual ~Port() = default;
  virtual void Wake() = 0;  // there may be something to send: ask Node::Fill
  virtual void Cut() = 0;   // end the stream now
};

// Where a message stands on its way.
enum class Place {
  kRoom,   // a push that waits for room in the line
  kLine,   //
  kAside,  // taken from the line, not begun: see Outlet::blocked and aside
  kSent,   // has a session
};

// One message on its way out.
struct Message {
  Request request;  // without its payload
  Bytes payload;
  bool push = false;
  std::optional<Time> due;       // its deadline
  std::optional<Time> room_due;  // of a push that waits for room
  Place place = Place::kRoom;
  std::uint64_t link = 0, session = 0;  // where it was sent
  bool gone = false;                    // its caller left after it was sent
  std::optional<Joiner> join;
  Reply begun;    // what came with the first frame of a large reply
  Callback done;  // null once it has its outcome

  explicit Message(Request r) : request(std::move(r)) {}
  bool large() const { return payload->size() > kPartBytes; }
  bool settled() const { return done == nullptr; }
  std::uint64_t size() const;  // what it counts against a bound
};

// The state of one link: what was sent and not answered, and what waits for the
// listener's bounds.
struct Outlet {
  std::shared_ptr<Port> port;
  Peer peer;
  PeerLimits limits;

  std::uint64_t session = 0;                      // the last one given
  std::unordered_map<std::uint64_t, Id> flights;  // sent and not answered, left ones too
  Bulk bulk;                                      // large messages that have begun
  std::uint64_t joining = 0;                      // weight of the large replies that arrive
  std::set<Id> blocked;                           // large messages that may not begin yet
  std::map<Address, std::set<Id>> aside;          // waits for the end of a large push to its addressee
  std::deque<std::uint64_t> cancels;

  Time opened, received;
  Time sent;  // when a batch last left, or a heartbeat was asked for
  Time checked;
  bool beat = false;
  std::optional<Time> writing;  // since when a write waits for HTTP/2's window
  bool peer_stopped = false;
  std::uint64_t pushed = 0;  // the last push that left, while no answer shows that it was read
  std::uint64_t unsure = 0;  // such pushes
  bool leaving = false;      // the node said goaway
  bool ending = false;       // takes no more: half-close when nothing is in flight
  bool half_closed = false;
  std::optional<Time> drain_until;  // cut then
  std::optional<Time> status_due;   // after ReadEnded

  bool Idle() const { return flights.empty() && bulk.empty() && cancels.empty(); }
  bool MayBegin(std::uint64_t n) const { return bulk.MayBegin(n, limits.unfinished); }
  std::optional<Error> Refuses(const Message& m) const;
  void Unjoin(Message* m);
};

// What the shell (core.cc) is to do once the lock is free.
struct Effects {
  std::vector<std::function<void()>> callbacks;
  std::vector<std::uint64_t> dials;
  std::vector<std::shared_ptr<Port>> wakes, cuts;
};

// What a link's writer does next.
enum class Filled { kBatch, kNothing, kHalfClose };

// Decides for one node. It has no thread, clock or lock of its own: a thin shell
// calls it under one lock, and tests call it with any time they like.
class Node {
 public:
  Node(std::string address, Options options, std::uint32_t incarnation);

  // Takes a new message: it fails, waits in the line, or is on its way.
  Id Submit(Request request, bool push, Callback done, Time now);
  // Takes a message back whose caller does not wait any longer.
  void Leave(Id id, Reason reason);

  // What became of a dial. Opened is false where the link is not wanted any more;
  // stream is what CutDial ends.
  void Dialling(std::uint64_t dial, std::shared_ptr<Port> stream, Time now);
  bool Opened(std::uint64_t dial, Peer peer, PeerLimits limits, Time now);
  void NotOpened(std::uint64_t dial, const std::string& cause, Time now);

  // What a link may send next.
  Filled Fill(std::uint64_t link, mesh::v1::LinkRequest* batch, Time now);
  // The write of the last batch is done.
  void Written(std::uint64_t link);
  // Takes the frames of one gRPC message. False with a cause that ends the link.
  bool Take(std::uint64_t link, mesh::v1::LinkResponse* message, Time now, std::string* cause);
  // Nothing more can be read: the stream's status is about to come, or what came last
  // cannot be read.
  void ReadEnded(std::uint64_t link, Time now);
  // Takes the end of a link. cause is null where the listener ended it in order.
  void Lost(std::uint64_t link, const std::string* cause, Time now);

  // Does what is due. NextDue says when there is something again.
  void Tick(Time now);
  Time NextDue() const;

  // Ends the open link in order; what waits without one fails.
  void Shut(Time now);
  bool Ended() const { return closed_ && outlets_.empty(); }

  std::optional<Peer> peer() const;
  const Stats& stats() const { return stats_; }
  const Options& options() const { return options_; }
  const std::string& address() const { return address_; }
  std::uint32_t incarnation() const { return incarnation_; }
  Effects TakeEffects() { return std::exchange(effects_, Effects()); }

 private:
  enum class Phase { kIdle, kDialling, kPause, kOpen };
  using Lost_ = std::uint64_t Stats::*;

  const std::string& Label() const { return options_.node.empty() ? address_ : options_.node; }
  Message& At(Id id) { return calls_.at(id); }
  Outlet* Open();
  void Wake(Outlet* o) { effects_.wakes.push_back(o->port); }
  void WakeOpen();

  // node.cc: the line.
  std::optional<Error> Refuses(const Message& m) const;
  void Settle(Message* m, Result result);
  void End(Id id, Result result);
  void Enqueue(Id id);
  void Count(const Message& m, bool comes);
  void Depart(Outlet* o, Id id);
  void Admit();
  void Fail(Outlet* o, Id id, const Error& e, Lost_ lost);
  void FailWaiting(const Error& e, Lost_ lost, const std::function<bool(const Request&)>& told);
  void Resend(Outlet* o, const std::vector<Id>& ids);
  void TakeBack(Outlet* o);
  void Untime(Id id, Message* m);
  // dial.cc
  void Kick();
  Error Pause(const std::string& cause, Time now);
  void CutDial();
  // fill.cc
  void FillLine(Outlet* o, std::uint64_t link, class Batch* b, Time now);
  void FillParts(Outlet* o, Batch* b);
  std::optional<Id> Next(Outlet* o);
  void Begin(Outlet* o, std::uint64_t link, Id id);
  void Release(Outlet* o, const Address& to);
  void FirstFrame(const Message& m, std::uint64_t session, Time now, mesh::v1::Frame* f) const;
  // receive.cc
  void Goaway(Outlet* o, std::uint64_t link, const mesh::v1::Goaway& g, Time now);
  bool Received(Outlet* o, mesh::v1::Frame* f, Time now);
  std::optional<Result> Answer(Outlet* o, Message* m, mesh::v1::Frame* f, Time now, bool* stray);
  std::optional<Result> BeginReply(Outlet* o, Message* m, mesh::v1::Reply* r, Time now);
  void BreakOff(Outlet* o, const std::string& cause);
  void TickLink(std::uint64_t link, Outlet* o, Time now);
  void Overdue(Outlet* o, Time now);
  Time NextDue(const Outlet& o) const;

  const std::string address_;
  const Options options_;
  const std::uint32_t incarnation_;
  Stats stats_;
  Effects effects_;

  std::unordered_map<Id, Message> calls_;
  Id last_id_ = 0;
  std::set<Id> line_;
  std::set<Id> room_;           // pushes that wait for room in the line
  std::size_t line_calls_ = 0;  // of line_, blocked and aside together
  std::uint64_t line_push_bytes_ = 0;
  std::set<std::pair<Time, Id>> timers_;  // of deadlines, and of pushes that wait for room

  Phase phase_ = Phase::kIdle;
  std::uint64_t dial_ = 0;        // the dial that counts; a link has the number of its dial
  std::shared_ptr<Port> dialled_;  // its stream
  Time dial_due_, pause_end_;
  std::string dial_cause_;  // why the dial fails then
  std::uint64_t current_ = 0;  // the open link; 0: none
  std::map<std::uint64_t, Outlet> outlets_;  // it, and those that end in order after a goaway
  int attempts_ = 0;                         // failed dials in a row
  std::optional<Error> last_error_;
  Time left_;  // until then a failed dial is told to nobody
  bool closed_ = false;
};

// Random bits, for jitter and incarnations.
std::uint64_t Random();

}  // namespace meshnode

#endif  // MESHNODE_SRC_NODE_H_
