#include "meshnode/link.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "core.h"
#include "mesh/v1/process.pb.h"

namespace meshnode {
namespace {

using std::chrono::milliseconds;

// Sensible values in place of those that are none.
Options Checked(Options o) {
  if (o.process.empty()) o.process = "cpp-" + std::to_string(getpid());
  o.heartbeat_interval = std::max(o.heartbeat_interval, milliseconds(1));
  o.backoff_min = std::max(o.backoff_min, milliseconds(1));
  o.backoff_max = std::max(o.backoff_max, o.backoff_min);
  o.max_batch_bytes = std::clamp<std::uint32_t>(o.max_batch_bytes, 64 << 10, kMaxBatchBytes);
  o.max_message_bytes = std::max<std::uint64_t>(o.max_message_bytes, 1);
  o.max_unfinished_bytes = std::max<std::uint64_t>(o.max_unfinished_bytes, 1);
  return o;
}

}  // namespace

Link::Link(const std::string& address, Options options) : core_(std::make_shared<Core>(address, Checked(std::move(options)))) {
  core_->Start();
}

Link::~Link() {
  core_->Close();
  core_->Stop();
}

Pending Link::Call(Request request, Callback done) {
  Pending p;
  p.core_ = core_;
  core_->With([&](Node& node, Time now) { p.id_ = node.Submit(std::move(request), false, std::move(done), now); });
  return p;
}

std::future<Reply> Link::Call(Request request) {
  auto promise = std::make_shared<std::promise<Reply>>();
  Call(std::move(request), [promise](Result r) {
    if (r.ok()) {
      promise->set_value(std::move(r.reply()));
    } else {
      promise->set_exception(std::make_exception_ptr(r.error()));
    }
  });
  return promise->get_future();
}

Pending Link::Send(Request request, Callback done) {
  Pending p;
  p.core_ = core_;
  core_->With([&](Node& node, Time now) { p.id_ = node.Submit(std::move(request), true, std::move(done), now); });
  return p;
}

std::future<void> Link::Send(Request request) {
  auto promise = std::make_shared<std::promise<void>>();
  Send(std::move(request), [promise](const Result& r) {
    if (r.ok()) {
      promise->set_value();
    } else {
      promise->set_exception(std::make_exception_ptr(r.error()));
    }
  });
  return promise->get_future();
}

std::future<std::uint64_t> Link::Query(const std::string& name, std::optional<std::chrono::microseconds> timeout) {
  mesh::v1::QueryRequest query;
  query.set_name(name);
  Request request(Address::Handle(0), "Query", query.SerializeAsString());
  request.timeout = timeout;
  auto promise = std::make_shared<std::promise<std::uint64_t>>();
  Call(std::move(request), [promise](const Result& r) {
    mesh::v1::QueryResponse response;
    if (!r.ok()) {
      promise->set_exception(std::make_exception_ptr(r.error()));
    } else if (!response.ParseFromString(r.reply().payload)) {
      const Error e(Verdict::kHandlerFailed, Reason::kInvalidRequest, "the answer to Query is not what process.proto says");
      promise->set_exception(std::make_exception_ptr(e));
    } else {
      promise->set_value(response.handle());
    }
  });
  return promise->get_future();
}

void Pending::Cancel() {
  if (const auto core = core_.lock()) {
    core->With([this](Node& node, Time) { node.Leave(id_, Reason::kCancelled); });
  }
}

std::optional<Peer> Link::peer() const {
  std::optional<Peer> p;
  core_->With([&](Node& node, Time) { p = node.peer(); });
  return p;
}

Stats Link::stats() const {
  Stats s;
  core_->With([&](Node& node, Time) { s = node.stats(); });
  return s;
}

void Link::Close() { core_->Close(); }

}  // namespace meshnode
