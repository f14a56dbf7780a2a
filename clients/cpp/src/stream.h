// One gRPC stream: a dial, and then a link.
#ifndef MESHNODE_SRC_STREAM_H_
#define MESHNODE_SRC_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "core.h"
#include "mesh/v1/cluster.grpc.pb.h"

namespace meshnode {

// It owns itself from Start until gRPC is done with it. At most one write is under
// way, and what is ready when it is done becomes the next: nothing is queued in
// gRPC. Its flags are under the lock of its core.
class Stream final : public Port,
                     public grpc::ClientBidiReactor<mesh::v1::LinkRequest, mesh::v1::LinkResponse>,
                     public std::enable_shared_from_this<Stream> {
 public:
  Stream(std::shared_ptr<Core> core, std::uint64_t link);
  void Start();

  void Wake() override;
  void Cut() override;

 private:
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnWritesDoneDone(bool ok) override { OnWriteDone(ok); }
  void OnDone(const grpc::Status& status) override;

  void Greet(Node* node, Time now);
  bool MayRelease();

  const std::shared_ptr<Core> core_;
  const std::uint64_t link_;
  std::shared_ptr<Stream> self_;
  grpc::ClientContext context_;
  std::unique_ptr<mesh::v1::ClusterService::Stub> stub_;
  mesh::v1::LinkRequest request_;
  mesh::v1::LinkResponse response_;

  bool opened_ = false;    // the node has it as a link
  bool writing_ = false;   // between the decision to write and its end
  bool closed_ = false;    // no more writes
  bool released_ = false;  // the hold is gone, or about to be
};

}  // namespace meshnode

#endif  // MESHNODE_SRC_STREAM_H_
