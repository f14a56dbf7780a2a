// What the two ends say of themselves, and how the wire's words are read.
#ifndef MESHNODE_SRC_HELLO_H_
#define MESHNODE_SRC_HELLO_H_

#include <chrono>
#include <cstdint>
#include <string>

#include "mesh/v1/cluster.pb.h"
#include "meshnode/link.h"

namespace meshnode {

// The most that any hello may name as a batch.
constexpr std::size_t kMaxBatchBytes = 1 << 20;

// What the peer's hello says of its bounds.
struct PeerLimits {
  std::size_t batch = 0;
  std::uint64_t message = 0, unfinished = 0;
  std::size_t calls = 0;
  std::chrono::milliseconds silence{0};  // a link on which nothing came for so long is dead
};

mesh::v1::Hello OwnHello(const Options& o, std::uint32_t incarnation);

// Checks the listener's first frame. False with a sentence in error.
bool ReadHello(const mesh::v1::Frame& first, Peer* peer, PeerLimits* limits, std::string* error);

// The error that a failure on the wire is.
Error ReadFailure(const mesh::v1::Failure& f);
Error FailureError(Reason reason, Verdict verdict, const std::string& message, int code, std::vector<Detail> details, Metadata headers,
                   Metadata trailers);

Metadata ReadMetadata(const google::protobuf::RepeatedPtrField<mesh::v1::Header>& headers);

// What headers count against their bound of 8 KiB.
std::size_t HeaderBytes(const Metadata& headers);

}  // namespace meshnode

#endif  // MESHNODE_SRC_HELLO_H_
