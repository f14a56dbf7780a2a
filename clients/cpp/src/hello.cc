#include "hello.h"

#include <algorithm>
#include <utility>

namespace meshnode {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::chrono::milliseconds kMinSilence{6000};

std::uint64_t Or(std::uint64_t v, std::uint64_t otherwise) { return v == 0 ? otherwise : v; }

// What a reason means. An unknown one counts as the handler's.
std::pair<Reason, Verdict> Meaning(int reason) {
  switch (reason) {
    case mesh::v1::REASON_PANIC:
      return {Reason::kPanic, Verdict::kHandlerFailed};
    case mesh::v1::REASON_REPLY_TOO_LARGE:
      return {Reason::kReplyTooLarge, Verdict::kHandlerFailed};
    case mesh::v1::REASON_CANCELLED:
      return {Reason::kCancelled, Verdict::kMaybeExecuted};
    case mesh::v1::REASON_UNKNOWN_METHOD:
      return {Reason::kUnknownMethod, Verdict::kRejected};
    case mesh::v1::REASON_INVALID_NAME:
      return {Reason::kInvalidName, Verdict::kRejected};
    case mesh::v1::REASON_NAME_NOT_FOUND:
      return {Reason::kNameNotFound, Verdict::kRejected};
    case mesh::v1::REASON_STALE_HANDLE:
      return {Reason::kStaleHandle, Verdict::kRejected};
    case mesh::v1::REASON_OVERLOADED:
      return {Reason::kOverloaded, Verdict::kRejected};
    case mesh::v1::REASON_DRAINING:
      return {Reason::kDraining, Verdict::kRejected};
    case mesh::v1::REASON_TOO_LARGE:
      return {Reason::kTooLarge, Verdict::kRejected};
    case mesh::v1::REASON_EXPIRED:
      return {Reason::kExpired, Verdict::kRejected};
    case mesh::v1::REASON_NOT_PERMITTED:
      return {Reason::kNotPermitted, Verdict::kRejected};
    case mesh::v1::REASON_INVALID_REQUEST:
      return {Reason::kInvalidRequest, Verdict::kRejected};
    case mesh::v1::REASON_NAME_TAKEN:
      return {Reason::kNameTaken, Verdict::kRejected};
    case mesh::v1::REASON_LOOP:
      return {Reason::kLoop, Verdict::kRejected};
    case mesh::v1::REASON_LINK_BROKEN:
      return {Reason::kLinkBroken, Verdict::kMaybeExecuted};
    default:
      return {Reason::kHandler, Verdict::kHandlerFailed};
  }
}

}  // namespace

mesh::v1::Hello OwnHello(const Options& o, std::uint32_t incarnation) {
  mesh::v1::Hello h;
  h.set_version(kVersion);
  h.set_process(o.process);
  h.set_node(o.node);
  h.set_incarnation(incarnation);
  h.set_heartbeat_interval_ms(static_cast<std::uint32_t>(o.heartbeat_interval.count()));
  h.set_max_batch_bytes(o.max_batch_bytes);
  h.set_max_message_bytes(o.max_message_bytes);
  h.set_max_unfinished_bytes(o.max_unfinished_bytes);
  return h;
}

bool ReadHello(const mesh::v1::Frame& first, Peer* peer, PeerLimits* limits, std::string* error) {
  const mesh::v1::Hello& h = first.hello();
  if (!first.has_hello()) {
    *error = "protocol error: the first frame is not a hello";
  } else if (h.version() != kVersion) {
    *error = "protocol error: protocol version " + std::to_string(h.version()) + " is not spoken here; use " + std::to_string(kVersion);
  } else if (h.incarnation() == 0) {
    *error = "protocol error: hello.incarnation is 0";
  }
  if (!error->empty()) return false;
  *peer = Peer{h.process(), h.incarnation()};
  limits->batch = std::clamp<std::size_t>(Or(h.max_batch_bytes(), 256 << 10), 64 << 10, kMaxBatchBytes);
  limits->message = Or(h.max_message_bytes(), 64 << 20);
  limits->unfinished = Or(h.max_unfinished_bytes(), 64 << 20);
  limits->calls = Or(h.max_calls(), 16384);
  const std::chrono::milliseconds interval(std::min<std::uint64_t>(Or(h.heartbeat_interval_ms(), 2000), 3600000));
  limits->silence = std::max(kMinSilence, 3 * interval);
  return true;
}

Error ReadFailure(const mesh::v1::Failure& f) {
  const auto [reason, verdict] = Meaning(f.reason());
  std::vector<Detail> details;
  for (const auto& d : f.details()) details.push_back(Detail{d.type_url(), d.value()});
  const int code = f.code() > 16 ? 0 : static_cast<int>(f.code());
  return FailureError(reason, verdict, f.message(), code, std::move(details), ReadMetadata(f.headers()), ReadMetadata(f.trailers()));
}

Metadata ReadMetadata(const google::protobuf::RepeatedPtrField<mesh::v1::Header>& headers) {
  Metadata m;
  for (const auto& h : headers) m.emplace_back(h.key(), h.value());
  return m;
}

std::size_t HeaderBytes(const Metadata& headers) {
  std::size_t n = 0;
  for (const auto& [key, value] : headers) n += key.size() + value.size() + 32;
  return n;
}

}  // namespace meshnode
