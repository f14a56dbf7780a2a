// Why a call or push failed, and what is known of its execution.
#ifndef MESHNODE_ERROR_H_
#define MESHNODE_ERROR_H_

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace grpc {
class Status;
}

namespace meshnode {

// gRPC metadata: keys in lower case, which may occur more than once, in order.
// Values are text, or raw bytes where the key ends in "-bin".
using Metadata = std::vector<std::pair<std::string, std::string>>;

// What is known of a message's execution after an error.
enum class Verdict {
  kNotSent,        // it never left this process for good: sending it again is safe
  kRejected,       // the node refused it before any handler ran: safe as well
  kMaybeExecuted,  // the link broke, or nobody waited any longer, after it was sent
  kHandlerFailed,  // the handler ran and failed
};

// "not sent", "rejected", "maybe executed" or "handler failed".
const char* ToString(Verdict verdict);

// What went wrong, for a program to decide by.
enum class Reason {
  kHandler,           // the handler returned an error of its own
  kPanic,             // the handler panicked; the text has an id of the node's log
  kUnknownMethod,     // the service has no such method
  kInvalidName,       // the name breaks the rules for names
  kNameNotFound,      // no service has the name
  kStaleHandle,       // of an earlier life of the process, or its service stopped
  kOverloaded,        // a limit was reached; the text says which
  kDraining,          // the node is leaving and the call had not started
  kTooLarge,          // the request is larger than the node takes
  kReplyTooLarge,     // the reply is larger than this process takes
  kExpired,           // the deadline had passed when the call's turn came
  kCancelled,         // nobody waited any longer
  kNotPermitted,      // the caller may not call this
  kInvalidRequest,    // it breaks a rule of the protocol; the text says which
  kConnectFailed,     // the node could not be reached
  kClosed,            // the link is closed
  kLinkBroken,        // the link broke after the message was sent
  kNameTaken,         // the name is in use by others
  kLoop,              // the message was passed on too often
  kDeadlineExceeded,  // the timeout of the request was over in this process
};

// As google.rpc.ErrorInfo of domain "mesh" names it: "NAME_NOT_FOUND".
const char* ToString(Reason reason);

// A detail of a status: what google.protobuf.Any holds.
struct Detail {
  std::string type_url;
  std::string value;
};

// The one error of calls and pushes. what() is a sentence for people.
class Error : public std::runtime_error {
 public:
  Error(Verdict verdict, Reason reason, const std::string& message);

  // What is known of the execution.
  Verdict verdict() const { return verdict_; }
  // What went wrong.
  Reason reason() const { return reason_; }
  // The gRPC status code, 1 to 16: the handler's own, or that of the reason.
  int code() const { return code_; }
  // The details of a status that the handler made.
  const std::vector<Detail>& details() const { return details_; }
  // What the handler set as headers and trailers before it failed.
  const Metadata& headers() const { return headers_; }
  const Metadata& trailers() const { return trailers_; }
  // For whom the message was, "db@sdb", and its method.
  const std::string& target() const { return target_; }
  const std::string& method() const { return method_; }

  // Code, message and details for a gRPC handler to return. Unless a handler made
  // the status, it has a google.rpc.ErrorInfo of domain "mesh" with the reason,
  // node, target, method and "executed": no, maybe or yes.
  grpc::Status ToStatus() const;

 private:
  friend class Node;
  friend Error FailureError(Reason, Verdict, const std::string&, int, std::vector<Detail>, Metadata, Metadata);

  Verdict verdict_;
  Reason reason_;
  int code_;
  std::vector<Detail> details_;
  Metadata headers_, trailers_;
  std::string node_, target_, method_;
};

}  // namespace meshnode

#endif  // MESHNODE_ERROR_H_
