// An ordinary generated stub, one channel to the nearest meshnode with a gateway,
// and one header. Nothing of this library is used.
//
//   meshnode serve --node db=127.0.0.1:2528 --open db --example simpledb --gateway 127.0.0.1:2600 &
//   example_stub 127.0.0.1:2600 greeting hello

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <iostream>

#include "simpledb/v1/simpledb.grpc.pb.h"

namespace {

// The one header: for whom the call is.
void ToDb(grpc::ClientContext* context) {
  context->AddMetadata("mesh-to", "db@sdb");
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
}

bool Failed(const grpc::Status& status) {
  if (!status.ok()) std::cerr << status.error_message() << " (code " << status.error_code() << ")\n";
  return !status.ok();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: example_stub GATEWAY KEY [VALUE]: writes VALUE where there is one, then reads KEY\n";
    return 2;
  }
  auto db = simpledb::v1::SimpleDBService::NewStub(grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials()));

  if (argc > 3) {
    simpledb::v1::SetRequest request;
    request.set_key(argv[2]);
    request.set_value(argv[3]);
    simpledb::v1::SetResponse response;
    grpc::ClientContext context;
    ToDb(&context);
    if (Failed(db->Set(&context, request, &response))) return 1;
    std::cout << "before: " << (response.has_last() ? response.last() : "(nothing)") << "\n";
  }
  simpledb::v1::GetRequest request;
  request.set_key(argv[2]);
  simpledb::v1::GetResponse response;
  grpc::ClientContext context;
  ToDb(&context);
  if (Failed(db->Get(&context, request, &response))) return 1;
  std::cout << (response.has_value() ? response.value() : "(nothing)") << "\n";
}
