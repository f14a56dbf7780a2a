// Calls the services of a meshnode cluster.
#ifndef MESHNODE_LINK_H_
#define MESHNODE_LINK_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "meshnode/error.h"

namespace grpc {
class ChannelCredentials;
}

namespace meshnode {

// The settings of a Link. The defaults are those of the protocol.
struct Options {
  // The node's name in the cluster's table, for its log and for errors: letters,
  // digits, '_' and '-'. Empty: none.
  std::string node;
  // This process's name, for the node's log and for handlers that ask who calls:
  // letters, digits, '_', '-' and '.'. Empty: "cpp-" and the process id.
  std::string process;
  // A shared token, where the node asks for one.
  std::string token;
  // How to connect: grpc::SslCredentials(...) for TLS. Null: plaintext.
  std::shared_ptr<grpc::ChannelCredentials> credentials;

  // The longest time for which this side sends nothing.
  std::chrono::milliseconds heartbeat_interval{2000};
  // The bound of a dial, both hellos included.
  std::chrono::milliseconds dial_timeout{5000};
  // The pauses after failed dials: they double from min to max, with jitter.
  std::chrono::milliseconds backoff_min{100};
  std::chrono::milliseconds backoff_max{3000};
  // How long calls in flight may take after Close.
  std::chrono::milliseconds drain{10000};
  // How long a push waits for room in the line.
  std::chrono::milliseconds send_wait{1000};

  // The longest gRPC message that this side takes, 64 KiB to 1 MiB.
  std::uint32_t max_batch_bytes = 256 << 10;
  // The largest reply that this side takes.
  std::uint64_t max_message_bytes = 64 << 20;
  // The bound of the large replies that have begun and not ended, by total size.
  std::uint64_t max_unfinished_bytes = 64 << 20;
  // How many calls wait in the line before one more fails as overloaded.
  std::size_t line_calls = 16384;
  // How many bytes of pushes stand in the line before one more waits.
  std::uint64_t line_push_bytes = 4 << 20;
};

// For whom a message is: the name of a service with its sign ("@sdb",
// ".launcher"), or a handle as Link::Query gives it. Handle 0 is the process
// itself.
class Address {
 public:
  Address(const char* name) : to_(std::string(name)) {}         // NOLINT: meant to convert
  Address(std::string name) : to_(std::move(name)) {}           // NOLINT
  static Address Handle(std::uint64_t handle) { return Address(handle); }

  bool is_handle() const { return to_.index() == 1; }
  const std::string& name() const { return std::get<0>(to_); }
  std::uint64_t handle() const { return std::get<1>(to_); }
  // "@sdb", or ':' and 16 hex digits.
  std::string ToString() const;

  bool operator<(const Address& o) const { return to_ < o.to_; }

 private:
  explicit Address(std::uint64_t handle) : to_(handle) {}
  std::variant<std::string, std::uint64_t> to_;
};

// A call or push before it is made.
struct Request {
  Address address;
  // Free text for plain handlers, "/package.Service/Method" where the service has a
  // schema; at most 1 KiB.
  std::string method;
  // More than 32 KiB travel in parts. Move it in: it is not copied then.
  std::string payload;
  // How long the call may take, the wait for the node included; it travels with the
  // call. None: it may wait for ever.
  std::optional<std::chrono::microseconds> timeout;
  // gRPC metadata for the handler; 8 KiB together at most, where each counts 32
  // bytes beside its text.
  Metadata headers;
  // A skynet trace tag. One that does not begin with '(' becomes
  // "(caller-target-session)tag".
  std::string trace_tag;
  // Fail at once in the pause after a failed dial.
  bool no_wait = false;
  // Wait for the node rather than fail when a dial fails.
  bool wait_up = false;

  explicit Request(Address to, std::string m = "", std::string p = "")
      : address(std::move(to)), method(std::move(m)), payload(std::move(p)) {}
};

// What a handler returned.
struct Reply {
  std::string payload;
  Metadata headers, trailers;
};

// The one outcome of a call: a reply, or an error.
class Result {
 public:
  Result(Reply reply) : value_(std::move(reply)) {}  // NOLINT: meant to convert
  Result(Error error) : value_(std::move(error)) {}  // NOLINT

  bool ok() const { return value_.index() == 0; }
  // Only where ok() is true, and false.
  const Reply& reply() const { return std::get<0>(value_); }
  Reply& reply() { return std::get<0>(value_); }
  const Error& error() const { return std::get<1>(value_); }

 private:
  std::variant<Reply, Error> value_;
};

// Is called once, from a thread of gRPC or of the link, or by the caller's own
// before Call returns. It must not block, nor destroy the link; it may make calls.
// Null: nobody is told.
using Callback = std::function<void(Result)>;

// The process at the other end of a link.
struct Peer {
  std::string process;
  // Random at its start: another one means that it was restarted.
  std::uint32_t incarnation = 0;
};

// What was counted since the link was made. What cannot be told to a caller is
// here.
struct Stats {
  std::uint64_t dials = 0, dials_failed = 0;
  std::uint64_t links_lost = 0;             // broke, or ended with something in flight
  std::uint64_t resent = 0;                 // after a goaway, or a refusal as draining
  std::uint64_t pushes_lost_connect = 0;    // accepted, and the node was not reached
  std::uint64_t pushes_lost_goaway = 0;     // not taken by a node that left
  std::uint64_t pushes_lost_broken = 0;     // large ones under way when the link broke
  std::uint64_t pushes_lost_too_large = 0;  // larger than the node takes
  std::uint64_t pushes_lost_closed = 0;     // accepted, not sent at Close
  std::uint64_t pushes_unsure = 0;          // sent, and the link broke before it was
                                            // known that the node had read them
  std::uint64_t replies_late = 0;           // nobody waited for them any more
  std::uint64_t frames_stray = 0;           // of no known session, or of an unknown kind
};

// Takes a call back: see Link::Call. Copies are the same call; it may outlive the
// link.
class Pending {
 public:
  Pending() = default;
  // The call fails as cancelled: not sent where it had not left, else maybe executed,
  // and its handler's context ends. Nothing happens where it has its outcome.
  void Cancel();

 private:
  friend class Link;
  std::weak_ptr<class Core> core_;
  std::uint64_t id_ = 0;
};

// A link to one node: one gRPC stream, calls and pushes up, answers down. It is
// safe for use from any thread.
//
// The node is dialled at the first use, and again, with growing pauses, when
// someone needs it after the link broke. Where a dial fails, the calls that waited
// for it fail as not sent, unless they asked for wait_up or the node said less than
// 30 s ago that it is leaving.
//
// Messages to one service are dispatched in the order in which one thread made
// them, calls and pushes, small and large. After a break there may be a hole in
// that order, never a repeat.
//
// A link has one thread of its own, for time.
class Link {
 public:
  // A link to the node at "host:port" or "unix:/path". Nothing is dialled yet.
  explicit Link(const std::string& address, Options options = Options());
  // Ends in order, as Close.
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  // Makes a call and tells its one outcome to done.
  Pending Call(Request request, Callback done);
  // Makes a call. get() returns the reply or throws the Error.
  std::future<Reply> Call(Request request);

  // Sends a one-way message. done is told, or the future is there, when the message
  // stands in the line of an open link; what becomes of it is told to nobody, and
  // counted in Stats where it is lost. Where the line is full of pushes it waits for
  // room, at most Options::send_wait.
  Pending Send(Request request, Callback done);
  std::future<void> Send(Request request);

  // The handle behind a name: valid until the process ends or the service stops.
  std::future<std::uint64_t> Query(const std::string& name, std::optional<std::chrono::microseconds> timeout = {});

  // The process at the other end, while the link is open.
  std::optional<Peer> peer() const;
  Stats stats() const;

  // Ends the link in order: what stands in its line is sent, calls in flight may
  // finish within Options::drain, and the node has placed the pushes that it read
  // when this returns. What is left then fails; new calls fail at once. It may be
  // called twice, and from several threads, not from a Callback.
  void Close();

 private:
  std::shared_ptr<class Core> core_;
};

}  // namespace meshnode

#endif  // MESHNODE_LINK_H_
