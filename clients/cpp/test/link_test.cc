// A link over real gRPC, to a listener in this process.
#include "meshnode/link.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "mesh/v1/cluster.grpc.pb.h"

namespace meshnode {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Answers each call with its payload, in parts where it is large. Method FAIL fails,
// HANG is answered when it is cancelled.
class Listener : public mesh::v1::ClusterService::Service {
 public:
  explicit Listener(int port = 0) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:" + std::to_string(port), grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~Listener() override { server_->Shutdown(std::chrono::system_clock::now()); }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  int port() const { return port_; }
  int pushes() const { return pushes_; }
  std::string token;  // asked for where it is set, before the first link

 private:
  using Stream = grpc::ServerReaderWriter<mesh::v1::LinkResponse, mesh::v1::LinkRequest>;

  grpc::Status Link(grpc::ServerContext* context, Stream* stream) override {
    if (!token.empty()) {
      const auto shown = context->client_metadata().find("authorization");
      if (shown == context->client_metadata().end() || shown->second != "Bearer " + token) {
        return grpc::Status(grpc::StatusCode::UNAUTHENTICATED, "show a token");
      }
    }
    mesh::v1::LinkRequest up;
    if (!stream->Read(&up) || !up.frames(0).has_hello()) return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no hello");
    mesh::v1::LinkResponse down;
    mesh::v1::Hello* hello = down.add_frames()->mutable_hello();
    hello->set_version(1);
    hello->set_process("listener");
    hello->set_incarnation(7);
    stream->Write(down);
    std::map<std::uint64_t, std::string> large;
    while (stream->Read(&up)) {
      down.Clear();
      for (const auto& f : up.frames()) {
        Take(f, &large, &down);
        if (down.ByteSizeLong() < (64 << 10)) continue;
        stream->Write(down);
        down.Clear();
      }
      if (down.frames_size() > 0) stream->Write(down);
    }
    return grpc::Status::OK;
  }

  void Take(const mesh::v1::Frame& f, std::map<std::uint64_t, std::string>* large, mesh::v1::LinkResponse* down) {
    const std::uint64_t session = f.session();
    if (f.has_part()) {
      std::string& have = (*large)[session];
      have += f.part().payload();
      if (have.size() == totals_[session]) Answer(session, have, down);
    } else if (f.has_cancel()) {
      Fail(session, mesh::v1::REASON_CANCELLED, 1, down);
    } else if (f.has_request() && f.request().push()) {
      ++pushes_;
    } else if (f.has_request() && f.request().method() == "FAIL") {
      Fail(session, mesh::v1::REASON_HANDLER, 9, down);
    } else if (f.has_request() && f.request().total_size() > 0) {
      (*large)[session] = f.request().payload();
      totals_[session] = f.request().total_size();
    } else if (f.has_request() && f.request().method() != "HANG") {
      Answer(session, f.request().payload(), down);
    }
  }

  static void Answer(std::uint64_t session, const std::string& payload, mesh::v1::LinkResponse* down) {
    mesh::v1::Frame* f = down->add_frames();
    f->set_session(session);
    f->mutable_reply()->set_payload(payload.substr(0, 32768));
    if (payload.size() > 32768) f->mutable_reply()->set_total_size(payload.size());
    for (std::size_t at = 32768; at < payload.size(); at += 32768) {
      f = down->add_frames();
      f->set_session(session);
      f->mutable_part()->set_payload(payload.substr(at, 32768));
    }
  }

  static void Fail(std::uint64_t session, mesh::v1::Reason reason, int code, mesh::v1::LinkResponse* down) {
    mesh::v1::Frame* f = down->add_frames();
    f->set_session(session);
    f->mutable_failure()->set_reason(reason);
    f->mutable_failure()->set_code(code);
    f->mutable_failure()->set_message("as told");
    auto* detail = f->mutable_failure()->add_details();
    detail->set_type_url("type.googleapis.com/x.Y");
    detail->set_value("v");
  }

  int port_ = 0;
  std::atomic<int> pushes_{0};
  std::map<std::uint64_t, std::uint64_t> totals_;  // of one link at a time
  std::unique_ptr<grpc::Server> server_;
};

// The error of a future; fails the test where it has none.
template <class T>
Error ErrorOf(std::future<T> f) {
  try {
    f.get();
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "no error";
  return Error(Verdict::kNotSent, Reason::kHandler, "none");
}

TEST(LinkTest, CallsPushesAndErrors) {
  Listener listener;
  Link link(listener.address());
  EXPECT_FALSE(link.peer());
  EXPECT_EQ(link.Call(Request("@sdb", "ECHO", "hello")).get().payload, "hello");
  EXPECT_EQ(link.peer()->process, "listener");
  std::string payload(200000, 'x');
  payload[123456] = 'y';
  EXPECT_EQ(link.Call(Request("@sdb", "ECHO", payload)).get().payload, payload);

  const Error e = ErrorOf(link.Call(Request("@sdb", "FAIL")));
  EXPECT_EQ(e.verdict(), Verdict::kHandlerFailed);
  EXPECT_EQ(e.code(), 9);
  EXPECT_STREQ(e.what(), "as told");
  ASSERT_EQ(e.details().size(), 1u);
  EXPECT_EQ(e.details()[0].value, "v");
  EXPECT_NE(e.ToStatus().error_details().find("x.Y"), std::string::npos);

  for (int i = 0; i < 100; ++i) link.Send(Request("@sdb", "PUSH")).get();
  link.Close();
  EXPECT_EQ(listener.pushes(), 100);  // Close returns when they were placed
  EXPECT_EQ(ErrorOf(link.Call(Request("@sdb", "ECHO"))).reason(), Reason::kClosed);
  link.Close();
  EXPECT_EQ(link.stats().links_lost, 0u);
}

TEST(LinkTest, CancelAndDeadline) {
  Listener listener;
  Link link(listener.address());
  std::promise<Result> outcome;
  Pending pending = link.Call(Request("@sdb", "HANG"), [&](Result r) { outcome.set_value(std::move(r)); });
  link.Call(Request("@sdb", "ECHO")).get();
  pending.Cancel();
  const Result r = outcome.get_future().get();
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().verdict(), Verdict::kMaybeExecuted);
  EXPECT_EQ(r.error().reason(), Reason::kCancelled);
  pending.Cancel();

  Request late("@sdb", "HANG");
  late.timeout = milliseconds(100);
  const Error e = ErrorOf(link.Call(late));
  EXPECT_EQ(e.reason(), Reason::kDeadlineExceeded);
  EXPECT_EQ(e.code(), 4);
  EXPECT_NE(e.ToStatus().error_details().find("DEADLINE_EXCEEDED"), std::string::npos);
}

TEST(LinkTest, ComesBackAfterTheNodeWasAway) {
  auto listener = std::make_unique<Listener>();
  const int port = listener->port();
  Options o;
  o.backoff_max = milliseconds(300);
  Link link(listener->address(), o);
  link.Call(Request("@sdb", "ECHO")).get();
  auto hangs = link.Call(Request("@sdb", "HANG"));
  link.Call(Request("@sdb", "ECHO")).get();
  listener.reset();
  const Error e = ErrorOf(std::move(hangs));
  EXPECT_EQ(e.verdict(), Verdict::kMaybeExecuted);
  EXPECT_EQ(e.reason(), Reason::kLinkBroken);
  EXPECT_EQ(ErrorOf(link.Call(Request("@sdb", "ECHO"))).verdict(), Verdict::kNotSent);
  Request waits("@sdb", "ECHO", "back");
  waits.wait_up = true;
  waits.timeout = seconds(10);
  auto back = link.Call(waits);
  listener = std::make_unique<Listener>(port);
  EXPECT_EQ(back.get().payload, "back");
}

TEST(LinkTest, NobodyListens) {
  Link link("127.0.0.1:1");
  const Error e = ErrorOf(link.Call(Request("@sdb", "ECHO")));
  EXPECT_EQ(e.verdict(), Verdict::kNotSent);
  EXPECT_EQ(e.reason(), Reason::kConnectFailed);
  EXPECT_EQ(e.code(), 14);
}

TEST(LinkTest, CloseAbandonsADial) {
  // It takes connections and says nothing.
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof to;
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&to), size), 0);
  ASSERT_EQ(listen(fd, 5), 0);
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&to), &size), 0);

  Options o;
  o.dial_timeout = milliseconds(300);
  Link link("127.0.0.1:" + std::to_string(ntohs(to.sin_port)), o);
  const Error e = ErrorOf(link.Call(Request("@sdb", "ECHO")));
  EXPECT_EQ(e.reason(), Reason::kConnectFailed);
  EXPECT_NE(std::string(e.what()).find("no answer within 300 ms"), std::string::npos) << e.what();

  Link other("127.0.0.1:" + std::to_string(ntohs(to.sin_port)));
  auto call = other.Call(Request("@sdb", "ECHO"));
  std::this_thread::sleep_for(milliseconds(50));
  const auto began = Clock::now();
  other.Close();
  EXPECT_LT(Clock::now() - began, seconds(2));
  EXPECT_EQ(ErrorOf(std::move(call)).reason(), Reason::kClosed);
  close(fd);
}

TEST(LinkTest, ANullCallbackIsNobody) {
  Listener listener;
  Link link(listener.address());
  link.Call(Request("@sdb", "ECHO"), nullptr);
  link.Call(Request("@sdb", "HANG"), nullptr).Cancel();
  link.Send(Request("@sdb", "PUSH"), nullptr);
  link.Call(Request("@sdb", "ECHO")).get();
  link.Close();
  EXPECT_EQ(listener.pushes(), 1);
}

TEST(LinkTest, ATokenIsShown) {
  Listener listener;
  listener.token = "0123456789abcdef";
  Link without(listener.address());
  const Error e = ErrorOf(without.Call(Request("@sdb", "ECHO")));
  EXPECT_NE(std::string(e.what()).find("show a token"), std::string::npos) << e.what();
  Options o;
  o.token = listener.token;
  Link with(listener.address(), o);
  with.Call(Request("@sdb", "ECHO")).get();
}

TEST(LinkTest, DestroyedWithCallsInFlight) {
  Listener listener;
  Options o;
  o.drain = milliseconds(100);
  std::future<Reply> hangs;
  Pending outlives;
  {
    Link link(listener.address(), o);
    link.Call(Request("@sdb", "ECHO")).get();
    hangs = link.Call(Request("@sdb", "HANG"));
    outlives = link.Call(Request("@sdb", "HANG"), [](const Result&) {});
  }
  EXPECT_EQ(ErrorOf(std::move(hangs)).verdict(), Verdict::kMaybeExecuted);
  outlives.Cancel();
}

TEST(LinkTest, ManyThreads) {
  Listener listener;
  Link link(listener.address());
  std::atomic<int> replies{0}, cancelled{0}, other{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 250; ++i) {
        const std::string payload(i % 50 == 0 ? 100000 : i, 'x');
        if (i % 10 == t) {
          link.Call(Request("@sdb", "HANG"), [&](const Result& r) { r.ok() ? ++other : ++cancelled; }).Cancel();
        } else if (i % 10 == 9) {
          link.Send(Request("@sdb", "PUSH", payload)).get();
        } else {
          EXPECT_EQ(link.Call(Request("@sdb", "ECHO", payload)).get().payload, payload);
          ++replies;
        }
      }
    });
  }
  for (std::thread& t : threads) t.join();
  link.Close();
  EXPECT_EQ(replies, 800);
  EXPECT_EQ(cancelled, 100);
  EXPECT_EQ(other, 0);
  EXPECT_EQ(listener.pushes(), 100);
}

TEST(LinkTest, ACallbackMayCall) {
  Listener listener;
  Link link(listener.address());
  std::promise<std::string> last;
  std::function<void(int)> next = [&](int n) {
    link.Call(Request("@sdb", "ECHO", std::to_string(n)), [&, n](Result r) {
      if (n == 100) {
        last.set_value(r.reply().payload);
      } else {
        next(n + 1);
      }
    });
  };
  next(0);
  EXPECT_EQ(last.get_future().get(), "100");
}

}  // namespace
}  // namespace meshnode
