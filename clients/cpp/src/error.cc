#include "meshnode/error.h"

#include <grpcpp/support/status.h>

#include "hello.h"

namespace meshnode {
namespace {

struct Facts {
  const char* name;
  grpc::StatusCode code;
};

// In the order of the enum.
constexpr Facts kFacts[] = {
    {"HANDLER", grpc::StatusCode::UNKNOWN},
    {"PANIC", grpc::StatusCode::INTERNAL},
    {"UNKNOWN_METHOD", grpc::StatusCode::UNIMPLEMENTED},
    {"INVALID_NAME", grpc::StatusCode::INVALID_ARGUMENT},
    {"NAME_NOT_FOUND", grpc::StatusCode::NOT_FOUND},
    {"STALE_HANDLE", grpc::StatusCode::FAILED_PRECONDITION},
    {"OVERLOADED", grpc::StatusCode::RESOURCE_EXHAUSTED},
    {"DRAINING", grpc::StatusCode::UNAVAILABLE},
    {"TOO_LARGE", grpc::StatusCode::RESOURCE_EXHAUSTED},
    {"REPLY_TOO_LARGE", grpc::StatusCode::OUT_OF_RANGE},
    {"EXPIRED", grpc::StatusCode::DEADLINE_EXCEEDED},
    {"CANCELLED", grpc::StatusCode::CANCELLED},
    {"NOT_PERMITTED", grpc::StatusCode::PERMISSION_DENIED},
    {"INVALID_REQUEST", grpc::StatusCode::INVALID_ARGUMENT},
    {"CONNECT_FAILED", grpc::StatusCode::UNAVAILABLE},
    {"CLOSED", grpc::StatusCode::UNAVAILABLE},
    {"LINK_BROKEN", grpc::StatusCode::ABORTED},
    {"NAME_TAKEN", grpc::StatusCode::ALREADY_EXISTS},
    {"LOOP", grpc::StatusCode::FAILED_PRECONDITION},
    {"DEADLINE_EXCEEDED", grpc::StatusCode::DEADLINE_EXCEEDED},
};

const char* Executed(Verdict v) {
  switch (v) {
    case Verdict::kNotSent:
    case Verdict::kRejected:
      return "no";
    case Verdict::kHandlerFailed:
      return "yes";
    default:
      return "maybe";
  }
}

// protobuf's wire format by hand, so that google/rpc needs no copy here, which
// would clash with a program's own.
void PutVarint(std::string* to, std::uint64_t v) {
  for (; v >= 0x80; v >>= 7) to->push_back(static_cast<char>(v | 0x80));
  to->push_back(static_cast<char>(v));
}

void PutBytes(std::string* to, int field, const std::string& bytes) {
  PutVarint(to, static_cast<std::uint64_t>(field) << 3 | 2);
  PutVarint(to, bytes.size());
  *to += bytes;
}

std::string Pair(const std::string& key, const std::string& value) {
  std::string entry;
  PutBytes(&entry, 1, key);
  PutBytes(&entry, 2, value);
  return entry;
}

std::string Any(const Detail& d) { return Pair(d.type_url, d.value); }

}  // namespace

const char* ToString(Verdict verdict) {
  constexpr const char* kNames[] = {"not sent", "rejected", "maybe executed", "handler failed"};
  return kNames[static_cast<int>(verdict)];
}

const char* ToString(Reason reason) { return kFacts[static_cast<int>(reason)].name; }

Error::Error(Verdict verdict, Reason reason, const std::string& message)
    : std::runtime_error(message), verdict_(verdict), reason_(reason), code_(kFacts[static_cast<int>(reason)].code) {}

Error FailureError(Reason reason, Verdict verdict, const std::string& message, int code, std::vector<Detail> details, Metadata headers,
                   Metadata trailers) {
  Error e(verdict, reason, message);
  if (reason == Reason::kHandler) {
    e.code_ = code >= 1 && code <= 16 ? code : static_cast<int>(grpc::StatusCode::UNKNOWN);
    e.details_ = std::move(details);
  }
  e.headers_ = std::move(headers);
  e.trailers_ = std::move(trailers);
  return e;
}

grpc::Status Error::ToStatus() const {
  std::vector<Detail> details = details_;
  if (reason_ != Reason::kHandler) {
    std::string info;
    PutBytes(&info, 1, ToString(reason_));
    PutBytes(&info, 2, "mesh");
    for (const auto& [key, value] : {std::pair<std::string, std::string>{"executed", Executed(verdict_)},
                                     {"method", method_},
                                     {"node", node_},
                                     {"target", target_}}) {
      PutBytes(&info, 3, Pair(key, value));
    }
    details.push_back(Detail{"type.googleapis.com/google.rpc.ErrorInfo", info});
  }
  std::string status;
  if (!details.empty()) {
    PutVarint(&status, 1 << 3);
    PutVarint(&status, static_cast<std::uint64_t>(code_));
    PutBytes(&status, 2, what());
    for (const Detail& d : details) PutBytes(&status, 3, Any(d));
  }
  return grpc::Status(static_cast<grpc::StatusCode>(code_), what(), status);
}

}  // namespace meshnode
