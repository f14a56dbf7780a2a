// Decisions of a node, in virtual time.
#include "node.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace meshnode {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Frame = mesh::v1::Frame;

struct FakePort : Port {
  void Wake() override {}
  void Cut() override {}
};

// A node whose dials succeed or fail as the test says.
class NodeTest : public testing::Test {
 protected:
  static Options Named() {
    Options o;
    o.node = "db";
    o.process = "test";
    return o;
  }
  void Make(const Options& o) { node_ = std::make_unique<Node>("127.0.0.1:1", o, 7); }
  void SetUp() override { Make(Named()); }

  // Runs the callbacks, and notes the dial that was asked for.
  void Settle() {
    Effects e = node_->TakeEffects();
    for (const auto& done : e.callbacks) done();
    for (const std::uint64_t dial : e.dials) {
      dial_ = dial;
      ++dials_;
      node_->Dialling(dial, std::make_shared<FakePort>(), now_);
    }
    cuts_ += e.cuts.size();
  }
  void Open(mesh::v1::Hello hello = {}) {
    hello.set_version(1);
    hello.set_process("listener");
    hello.set_incarnation(9);
    Frame f;
    *f.mutable_hello() = hello;
    Peer peer;
    PeerLimits limits;
    std::string error;
    ASSERT_TRUE(ReadHello(f, &peer, &limits, &error)) << error;
    ASSERT_TRUE(node_->Opened(dial_, peer, limits, now_));
    Settle();
  }
  void NoDial() {
    node_->NotOpened(dial_, "refused", now_);
    Settle();
  }
  void Pass(milliseconds d) {
    const Time end = now_ + d;
    while (node_->NextDue() <= end) {
      now_ = std::max(now_, node_->NextDue());
      node_->Tick(now_);
      Settle();
    }
    now_ = end;
  }

  Id Call(const std::string& key, std::optional<milliseconds> timeout = {}, bool wait_up = false) {
    Request r("@sdb", "GET", key);
    if (timeout) r.timeout = *timeout;
    r.wait_up = wait_up;
    return Submit(std::move(r), false);
  }
  Id Submit(Request r, bool push) {
    auto at = std::make_shared<Id>(0);
    const Id id = node_->Submit(std::move(r), push, [this, at](Result result) { early_.emplace(*at, std::move(result)); }, now_);
    *at = id;
    Settle();
    return id;
  }
  // The outcome of a message; fails the test where it has none.
  const Result& Outcome(Id id) {
    auto it = early_.find(id);
    if (it == early_.end()) throw std::runtime_error("no outcome yet");
    return it->second;
  }
  bool HasOutcome(Id id) { return early_.count(id) > 0; }
  void ExpectError(Id id, Verdict v, Reason r) {
    ASSERT_TRUE(HasOutcome(id));
    ASSERT_FALSE(Outcome(id).ok());
    const Error& e = Outcome(id).error();
    EXPECT_EQ(std::string(ToString(e.verdict())) + " " + ToString(e.reason()), std::string(ToString(v)) + " " + ToString(r)) << e.what();
  }

  // Everything that the link sends now.
  std::vector<Frame> Sent() { return Sent(dial_); }
  std::vector<Frame> Sent(std::uint64_t link) {
    std::vector<Frame> frames;
    mesh::v1::LinkRequest batch;
    while (node_->Fill(link, &batch, now_) == Filled::kBatch) {
      EXPECT_LE(batch.ByteSizeLong(), 256u << 10);
      frames.insert(frames.end(), batch.frames().begin(), batch.frames().end());
      node_->Written(link);
    }
    Settle();
    return frames;
  }
  bool Give(const std::vector<Frame>& frames) { return Give(dial_, frames); }
  bool Give(std::uint64_t link, const std::vector<Frame>& frames) {
    mesh::v1::LinkResponse m;
    for (const Frame& f : frames) *m.add_frames() = f;
    std::string cause;
    const bool ok = node_->Take(link, &m, now_, &cause);
    if (!ok) node_->Lost(link, &cause, now_);
    Settle();
    return ok;
  }
  static Frame ReplyFrame(std::uint64_t session, const std::string& payload, std::uint64_t total = 0) {
    Frame f;
    f.set_session(session);
    f.mutable_reply()->set_payload(payload);
    f.mutable_reply()->set_total_size(total);
    return f;
  }
  static Frame PartFrame(std::uint64_t session, const std::string& payload) {
    Frame f;
    f.set_session(session);
    f.mutable_part()->set_payload(payload);
    return f;
  }
  static Frame FailureFrame(std::uint64_t session, mesh::v1::Reason reason, std::uint32_t code = 0) {
    Frame f;
    f.set_session(session);
    f.mutable_failure()->set_reason(reason);
    f.mutable_failure()->set_code(code);
    return f;
  }
  static Frame GoawayFrame(std::uint64_t last) {
    Frame f;
    f.mutable_goaway()->set_last_session(last);
    return f;
  }

  std::unique_ptr<Node> node_;
  Time now_ = Time() + seconds(1000);
  std::uint64_t dial_ = 0;
  std::size_t dials_ = 0, cuts_ = 0;
  std::map<Id, Result> early_;
};

TEST_F(NodeTest, CallsAreSentInOrderAndAnswered) {
  const Id a = Call("a"), b = Call("b", seconds(2));
  Open();
  const auto sent = Sent();
  ASSERT_EQ(sent.size(), 2u);
  EXPECT_EQ(sent[0].session(), 1u);
  EXPECT_EQ(sent[0].request().payload(), "a");
  EXPECT_EQ(sent[0].request().time_left_us(), 0u);
  EXPECT_EQ(sent[1].request().time_left_us(), 2000000u);
  Give({ReplyFrame(2, "B"), FailureFrame(1, mesh::v1::REASON_NAME_NOT_FOUND)});
  EXPECT_EQ(Outcome(b).reply().payload, "B");
  ExpectError(a, Verdict::kRejected, Reason::kNameNotFound);
  EXPECT_EQ(Outcome(a).error().code(), 5);
  EXPECT_EQ(Outcome(a).error().target(), "db@sdb");
}

TEST_F(NodeTest, LargePayloadsTravelInParts) {
  std::string payload(100000, 'x');
  payload[40000] = 'y';
  const Id large = Submit(Request("@sdb", "PUT", payload), false);
  const Id small = Call("small");
  Open();
  std::string have;
  bool passed = false;
  for (const Frame& f : Sent()) {
    if (f.session() == 2) passed = have.size() < payload.size();
    if (f.session() != 1) continue;
    have += f.has_request() ? f.request().payload() : f.part().payload();
    if (f.has_request()) {
      EXPECT_EQ(f.request().total_size(), 100000u);
    }
  }
  EXPECT_EQ(have, payload);
  EXPECT_TRUE(passed);
  Give({ReplyFrame(1, payload.substr(0, 32768), 70000), ReplyFrame(2, "ok"), PartFrame(1, payload.substr(32768, 32768))});
  EXPECT_EQ(Outcome(small).reply().payload, "ok");
  EXPECT_FALSE(HasOutcome(large));
  Give({PartFrame(1, payload.substr(65536, 4464))});
  EXPECT_EQ(Outcome(large).reply().payload, payload.substr(0, 70000));
}

TEST_F(NodeTest, ALargePushKeepsTheOrderToItsTarget) {
  const Id push = Submit(Request("@sdb", "PUSH", std::string(200000, 'x')), true);
  Call("after");
  Submit(Request("@other", "GET"), false);
  EXPECT_FALSE(HasOutcome(push));
  Open();
  EXPECT_TRUE(Outcome(push).ok());
  std::size_t parts = 0;
  bool other = false;
  for (const Frame& f : Sent()) {
    if (f.has_part()) ++parts;
    if (f.request().name() == "@other") other = parts < 6;
    if (f.request().payload() == "after") {
      EXPECT_EQ(parts, 6u);
    }
  }
  EXPECT_TRUE(other);
}

TEST_F(NodeTest, SpoiltRepliesFailAlone) {
  const Id a = Call("a"), b = Call("b"), c = Call("c"), d = Call("d");
  Open();
  Sent();
  const std::string piece(32768, 'x');
  Give({ReplyFrame(1, piece.substr(1), 70000), ReplyFrame(2, piece, 70000), PartFrame(2, "short"), ReplyFrame(3, piece, 1ull << 63), ReplyFrame(4, "d")});
  ExpectError(a, Verdict::kMaybeExecuted, Reason::kInvalidRequest);
  ExpectError(b, Verdict::kMaybeExecuted, Reason::kInvalidRequest);
  ExpectError(c, Verdict::kHandlerFailed, Reason::kReplyTooLarge);
  EXPECT_TRUE(Outcome(d).ok());
  const auto sent = Sent();
  ASSERT_EQ(sent.size(), 3u);
  for (const Frame& f : sent) EXPECT_TRUE(f.has_cancel());
  Give({PartFrame(1, "late"), PartFrame(99, "stray")});
  EXPECT_EQ(node_->stats().frames_stray, 2u);
}

TEST_F(NodeTest, WhoStopsWaitingSendsOneCancel) {
  const Id late = Call("late", milliseconds(300)), told = Call("told");
  Open();
  EXPECT_EQ(Sent().size(), 2u);
  Pass(milliseconds(300));
  ExpectError(late, Verdict::kMaybeExecuted, Reason::kDeadlineExceeded);
  node_->Leave(told, Reason::kCancelled);
  node_->Leave(told, Reason::kCancelled);
  Settle();
  ExpectError(told, Verdict::kMaybeExecuted, Reason::kCancelled);
  const auto sent = Sent();
  ASSERT_EQ(sent.size(), 2u);
  EXPECT_TRUE(sent[0].has_cancel() && sent[0].session() == 1 && sent[1].has_cancel() && sent[1].session() == 2);
  Give({ReplyFrame(1, ""), ReplyFrame(2, ""), ReplyFrame(2, "")});
  EXPECT_EQ(node_->stats().replies_late, 2u);
  EXPECT_EQ(node_->stats().frames_stray, 1u);
}

TEST_F(NodeTest, TheListenersBoundsAreKept) {
  mesh::v1::Hello hello;
  hello.set_max_calls(2);
  hello.set_max_message_bytes(200000);
  hello.set_max_unfinished_bytes(131072);
  Call("1");
  Open(hello);
  Call("2");
  const Id third = Call("3", seconds(1));
  EXPECT_EQ(Sent().size(), 2u);
  Pass(seconds(1));
  ExpectError(third, Verdict::kNotSent, Reason::kDeadlineExceeded);
  Give({ReplyFrame(1, ""), ReplyFrame(2, "")});
  EXPECT_EQ(Sent().size(), 0u);
  const Id huge = Submit(Request("@sdb", "x", std::string(200001, 'x')), false);
  ExpectError(huge, Verdict::kNotSent, Reason::kTooLarge);
  const Id wide = Submit(Request("@sdb", "x", std::string(150000, 'x')), false);
  ExpectError(wide, Verdict::kNotSent, Reason::kTooLarge);

  Submit(Request("@sdb", "x", std::string(100000, 'x')), false);
  Submit(Request("@sdb", "y", std::string(100000, 'y')), false);
  std::size_t begun = 0, ended = 0, bytes = 0;
  for (const Frame& f : Sent()) {
    begun += f.has_request();
    bytes += f.has_request() ? f.request().payload().size() : f.part().payload().size();
    ended = bytes / 100000;
    EXPECT_LE(begun - ended, 1u) << "100000 bytes twice do not fit into 131072";
  }
  EXPECT_EQ(ended, 2u);
}

TEST_F(NodeTest, WhatAGoawayDidNotTakeIsSentAgain) {
  const Id a = Call("a"), b = Call("b");
  Open();
  Submit(Request("@sdb", "PUSH"), true);
  EXPECT_EQ(Sent().size(), 3u);
  const std::uint64_t old = dial_;
  Pass(seconds(1));
  Give({GoawayFrame(1)});
  EXPECT_NE(dial_, old);
  NoDial();  // it is being restarted: nobody is told
  EXPECT_FALSE(HasOutcome(b));
  Pass(seconds(1));
  Open();
  const auto again = Sent();
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].request().payload(), "b");
  mesh::v1::LinkRequest batch;
  EXPECT_TRUE(node_->Fill(old, &batch, now_) == Filled::kBatch);  // a heartbeat
  EXPECT_TRUE(node_->Fill(old, &batch, now_) == Filled::kNothing);
  Give(old, {ReplyFrame(1, "A")});
  EXPECT_EQ(Outcome(a).reply().payload, "A");
  EXPECT_TRUE(node_->Fill(old, &batch, now_) == Filled::kHalfClose);
  EXPECT_TRUE(node_->Fill(old, &batch, now_) == Filled::kNothing);
  node_->Lost(old, nullptr, now_);
  EXPECT_EQ(node_->stats().links_lost, 0u);
  EXPECT_EQ(node_->stats().pushes_lost_goaway, 1u);
  EXPECT_EQ(node_->stats().resent, 1u);
}

TEST_F(NodeTest, DrainingIsSentAgainOnlyAfterAGoaway) {
  const Id early = Call("early"), late = Call("late");
  Open();
  Sent();
  Give({FailureFrame(1, mesh::v1::REASON_DRAINING)});
  ExpectError(early, Verdict::kRejected, Reason::kDraining);
  Pass(seconds(1));
  const std::uint64_t old = dial_;
  Give({GoawayFrame(2)});
  Give(old, {FailureFrame(2, mesh::v1::REASON_DRAINING)});
  EXPECT_FALSE(HasOutcome(late));
  Open();
  EXPECT_EQ(Sent().at(0).request().payload(), "late");
}

TEST_F(NodeTest, ABreakFailsWhatIsInFlightAndKeepsTheLine) {
  mesh::v1::Hello hello;
  hello.set_max_calls(1);
  const Id sent = Call("sent");
  Open(hello);
  Sent();
  const Id waits = Call("waits");
  const std::string cause = "gone";
  node_->Lost(dial_, &cause, now_);
  Settle();
  ExpectError(sent, Verdict::kMaybeExecuted, Reason::kLinkBroken);
  EXPECT_STREQ(Outcome(sent).error().what(), "link to [db] broke: gone");
  EXPECT_EQ(cuts_, 1u);
  Pass(seconds(1));  // it broke soon after it opened: a pause comes first
  Open();
  EXPECT_EQ(Sent().at(0).request().payload(), "waits");
  EXPECT_FALSE(HasOutcome(waits));
}

TEST_F(NodeTest, SilenceAndHeartbeats) {
  mesh::v1::Hello hello;
  hello.set_heartbeat_interval_ms(1000);
  const Id call = Call("a");
  Open(hello);
  Sent();
  int beats = 0;
  for (int i = 0; i < 59; ++i) {
    Pass(milliseconds(100));
    for (const Frame& f : Sent()) beats += f.has_heartbeat();
  }
  EXPECT_EQ(beats, 2);  // in 5.9 s, one in 2 s
  EXPECT_FALSE(HasOutcome(call));
  Pass(milliseconds(100));
  ExpectError(call, Verdict::kMaybeExecuted, Reason::kLinkBroken);
}

TEST_F(NodeTest, AStuckWriteIsASlowConsumerUnlessThePeerSaysSo) {
  for (const bool says : {true, false}) {
    SetUp();
    Call("a");
    Open();
    mesh::v1::LinkRequest batch;
    ASSERT_TRUE(node_->Fill(dial_, &batch, now_) == Filled::kBatch);  // and is not written
    Frame beat;
    beat.mutable_heartbeat()->set_reading_stopped(says);
    for (int i = 0; i < 35; ++i) {
      Give({beat});
      Pass(seconds(1));
    }
    EXPECT_EQ(node_->stats().links_lost, says ? 0u : 1u);
  }
}

TEST_F(NodeTest, DialsAreSpacedAndTold) {
  const Id hasty = Call("a");
  NoDial();
  ExpectError(hasty, Verdict::kNotSent, Reason::kConnectFailed);
  EXPECT_STREQ(Outcome(hasty).error().what(), "connect [db] (127.0.0.1:1): refused");
  const Id waits = Call("b", {}, true);
  const std::size_t before = dials_;
  for (int i = 0; i < 2000; ++i) {  // 20 s, each dial fails at once
    Pass(milliseconds(10));
    NoDial();
  }
  EXPECT_GE(dials_ - before, 8u);
  EXPECT_LE(dials_ - before, 20u);
  EXPECT_FALSE(HasOutcome(waits));
  while (node_->NextDue() < now_ + seconds(4) && !node_->peer()) {
    Pass(milliseconds(10));
    if (dials_ > before && node_->Opened(dial_, Peer{}, PeerLimits{256 << 10, 1, 1, 1, milliseconds(6000)}, now_)) break;
  }
  ASSERT_TRUE(node_->peer());
  EXPECT_EQ(Sent().at(0).request().payload(), "b");
}

TEST_F(NodeTest, ADialHasABound) {
  const Id a = Call("a");
  Pass(milliseconds(4999));
  EXPECT_FALSE(HasOutcome(a));
  Pass(milliseconds(1));
  ExpectError(a, Verdict::kNotSent, Reason::kConnectFailed);
  EXPECT_EQ(cuts_, 1u);
}

TEST_F(NodeTest, TheLineIsBounded) {
  Options o = Named();
  o.line_calls = 1;
  o.line_push_bytes = 1000;
  Make(o);
  Call("1", {}, true);
  ExpectError(Call("2", {}, true), Verdict::kNotSent, Reason::kOverloaded);
  const auto push = [&] {
    Request r("@sdb", "PUSH", std::string(2000, 'x'));
    r.wait_up = true;
    return Submit(std::move(r), true);
  };
  const Id first = push(), second = push();
  Pass(seconds(1));
  ExpectError(second, Verdict::kNotSent, Reason::kOverloaded);
  EXPECT_FALSE(HasOutcome(first));
  const Id third = push();
  Open();
  EXPECT_TRUE(Outcome(first).ok());
  EXPECT_EQ(Sent().size(), 3u);
  EXPECT_TRUE(Outcome(third).ok());
}

TEST_F(NodeTest, ShutSendsWhatWaitsThenHalfCloses) {
  const Id a = Call("a");
  Open();
  Submit(Request("@sdb", "PUSH"), true);
  node_->Shut(now_);
  ExpectError(Call("late"), Verdict::kNotSent, Reason::kClosed);
  EXPECT_EQ(Sent().size(), 2u);
  mesh::v1::LinkRequest batch;
  EXPECT_TRUE(node_->Fill(dial_, &batch, now_) == Filled::kNothing);
  Give({ReplyFrame(1, "A")});
  EXPECT_TRUE(Outcome(a).ok());
  EXPECT_TRUE(node_->Fill(dial_, &batch, now_) == Filled::kHalfClose);
  EXPECT_FALSE(node_->Ended());
  node_->Lost(dial_, nullptr, now_);
  EXPECT_TRUE(node_->Ended());
  EXPECT_EQ(node_->stats().links_lost + node_->stats().pushes_unsure, 0u);
}

TEST_F(NodeTest, ShutIsBoundedByTheDrainTime) {
  const Id a = Call("a");
  Open();
  Sent();
  node_->Shut(now_);
  Frame beat;
  beat.mutable_heartbeat();
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(HasOutcome(a));
    Give({beat});
    Pass(seconds(1));
  }
  ExpectError(a, Verdict::kMaybeExecuted, Reason::kLinkBroken);
  EXPECT_TRUE(node_->Ended());
}

TEST_F(NodeTest, AcceptedPushesThatAreLostAreCounted) {
  Request push("@sdb", "PUSH");
  push.timeout = seconds(60);  // its deadline comes after its end
  Call("a");
  Open();
  Sent();
  Submit(push, true);
  Submit(Request("@sdb", "PUSH", std::string(300000, 'x')), true);
  mesh::v1::LinkRequest batch;
  ASSERT_TRUE(node_->Fill(dial_, &batch, now_) == Filled::kBatch);  // the large one is under way
  const std::string cause = "gone";
  node_->Lost(dial_, &cause, now_);
  EXPECT_EQ(node_->stats().pushes_lost_broken, 1u);
  EXPECT_EQ(node_->stats().pushes_unsure, 1u);
  Pass(seconds(100));
}

TEST_F(NodeTest, InvalidMessagesAreNotSent) {
  ExpectError(Submit(Request(""), false), Verdict::kNotSent, Reason::kInvalidName);
  ExpectError(Submit(Request(std::string(256, 'x')), false), Verdict::kNotSent, Reason::kInvalidName);
  ExpectError(Submit(Request("@sdb", std::string(1025, 'x')), false), Verdict::kNotSent, Reason::kInvalidRequest);
  Request r("@sdb", "GET");
  r.headers = {{"x", std::string(9000, 'x')}};
  ExpectError(Submit(r, false), Verdict::kNotSent, Reason::kInvalidRequest);
}

}  // namespace
}  // namespace meshnode
