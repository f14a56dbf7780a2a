#include "stream.h"

#include <utility>

namespace meshnode {
namespace {

constexpr int kBatchSlack = 4 << 10;  // gRPC's own message limit lies so far above the batch bound
constexpr int kWindow = 1 << 20;

// The gRPC settings of a link; docs/protocol.md says why.
grpc::ChannelArguments Arguments(const Options& o) {
  grpc::ChannelArguments args;
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
  args.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  args.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  args.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kWindow);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
  args.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  args.SetMaxReceiveMessageSize(static_cast<int>(o.max_batch_bytes) + kBatchSlack);
  args.SetMaxSendMessageSize(-1);
  return args;
}

// What a status says, for people.
std::string Text(const grpc::Status& s) {
  return s.error_message().empty() ? "gRPC status " + std::to_string(s.error_code()) : s.error_message();
}

}  // namespace

Stream::Stream(std::shared_ptr<Core> core, std::uint64_t link) : core_(std::move(core)), link_(link) {}

void Stream::Start() {
  self_ = shared_from_this();
  core_->With([&](Node& node, Time now) {
    const Options& o = node.options();
    const auto credentials = o.credentials ? o.credentials : grpc::InsecureChannelCredentials();
    stub_ = mesh::v1::ClusterService::NewStub(grpc::CreateCustomChannel(node.address(), credentials, Arguments(o)));
    if (!o.token.empty()) context_.AddMetadata("authorization", "Bearer " + o.token);
    *request_.add_frames()->mutable_hello() = OwnHello(o, node.incarnation());
    writing_ = true;
    node.Dialling(link_, self_, now);
  });
  stub_->async()->Link(&context_, this);
  AddHold();  // for writes from other threads, until MayRelease
  StartWrite(&request_);
  StartRead(&response_);
  StartCall();
}

void Stream::Wake() {
  Filled filled = Filled::kNothing;
  Effects effects = core_->Locked([&](Node& node, Time now) {
    if (!opened_ || writing_ || closed_) return;
    filled = node.Fill(link_, &request_, now);
    writing_ = filled != Filled::kNothing;
  });
  if (filled == Filled::kBatch) StartWrite(&request_);
  if (filled == Filled::kHalfClose) StartWritesDone();
  core_->Act(std::move(effects));
}

void Stream::Cut() {
  const auto self = shared_from_this();
  bool release = false;
  core_->With([&](Node&, Time) {
    closed_ = true;
    release = MayRelease();
  });
  context_.TryCancel();
  if (release) RemoveHold();
}

// Whether the hold is to be removed now, by the caller.
bool Stream::MayRelease() {
  if (!closed_ || writing_ || released_) return false;
  released_ = true;
  return true;
}

void Stream::OnWriteDone(bool ok) {
  const auto self = shared_from_this();
  bool release = false;
  core_->With([&](Node& node, Time) {
    writing_ = false;
    closed_ = closed_ || !ok;
    node.Written(link_);
    release = MayRelease();
  });
  if (release) {
    RemoveHold();
  } else {
    Wake();
  }
}

void Stream::OnReadDone(bool ok) {
  const auto self = shared_from_this();
  bool release = false;
  core_->With([&](Node& node, Time now) {
    if (!ok) {
      closed_ = true;
      release = MayRelease();
      node.ReadEnded(link_, now);
      return;
    }
    if (!opened_) Greet(&node, now);
    std::string cause;
    if (opened_ && !node.Take(link_, &response_, now, &cause)) node.Lost(link_, &cause, now);
  });
  if (release) RemoveHold();
  if (!ok) return;
  StartRead(&response_);
  Wake();
}

// Takes the listener's hello, and leaves what came with it.
void Stream::Greet(Node* node, Time now) {
  if (closed_ || response_.frames_size() == 0) return;
  Peer peer;
  PeerLimits limits;
  std::string error;
  if (!ReadHello(response_.frames(0), &peer, &limits, &error)) {
    node->NotOpened(link_, error, now);
    return;
  }
  response_.mutable_frames()->DeleteSubrange(0, 1);
  opened_ = node->Opened(link_, std::move(peer), limits, now);
}

void Stream::OnDone(const grpc::Status& status) {
  core_->With([&](Node& node, Time now) {
    const std::string text = status.ok() ? "the node ended the link before its hello" : Text(status);
    if (opened_) {
      node.Lost(link_, status.ok() ? nullptr : &text, now);
    } else {
      node.NotOpened(link_, text, now);
    }
  });
  const auto self = std::move(self_);  // it may end with this
}

}  // namespace meshnode
