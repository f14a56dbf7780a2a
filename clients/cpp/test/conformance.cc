// The driver of the conformance kit; test/conformance/README.md says what it does.
// It knows no case: it carries out ops.

#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>
#include <meshnode/link.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#include "mesh/v1/cluster.pb.h"
#include "wire.h"

namespace {

using meshnode::Address;
using meshnode::Link;
using meshnode::Result;

std::mutex out_mu;

void Say(const Json& line) {
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace);
  std::lock_guard<std::mutex> lock(out_mu);
  std::cout << text << std::endl;
}

void Done(const Json& id, Json fields = Json::object()) {
  fields["id"] = id;
  fields["ok"] = true;
  Say(fields);
}

void Bug(const Json& id, const std::string& text) { Say({{"id", id}, {"ok", false}, {"error", {{"verdict", ""}, {"message", text}}}}); }

void Failed(const Json& id, const meshnode::Error& e) {
  Json details = Json::array();
  for (const auto& d : e.details()) details.push_back({{"type_url", d.type_url}, {"value", Base64(d.value)}});
  const Json error = {
      {"verdict", ToString(e.verdict())},       {"reason", e.reason() == meshnode::Reason::kHandler ? "" : ToString(e.reason())},
      {"code", e.code()},                       {"message", e.what()},
      {"details", details},                     {"headers", HeadersOut(e.headers())},
      {"trailers", HeadersOut(e.trailers())},
  };
  Say({{"id", id}, {"ok", false}, {"error", error}});
}

meshnode::Request RequestOf(const Json& op) {
  const std::string target = op.value("target", "");
  const bool handle = !target.empty() && target[0] == ':';
  meshnode::Request r(handle ? Address::Handle(std::stoull(target.substr(1), nullptr, 16)) : Address(target), op.value("method", ""), PayloadIn(op));
  r.headers = HeadersIn(op);
  r.trace_tag = op.value("trace_tag", "");
  r.wait_up = op.value("wait_up", false);
  if (const int ms = op.value("timeout_ms", 0)) r.timeout = std::chrono::milliseconds(ms);
  return r;
}

template <class M>
Json Recoded(const Json& op) {
  M m;
  if (!m.ParseFromString(Unbase64(op.value("data", "")))) throw std::runtime_error("cannot be decoded");
  std::string json;
  // A detail of a type that is not linked in cannot be JSON; the bytes still tell.
  const auto status = google::protobuf::util::MessageToJsonString(m, &json);
  Json out = {{"data", Base64(m.SerializeAsString())}};
  if (status.ok()) out["json"] = Json::parse(json);
  return out;
}

class Driver {
 public:
  void Run(const Json& op) {
    const Json id = op.value("id", Json());
    try {
      Begin(id, op.value("op", ""), op);
    } catch (const std::exception& e) {
      Bug(id, e.what());
    }
  }

 private:
  void Begin(const Json& id, const std::string& name, const Json& op) {
    if (name == "info") {
      Done(id, {{"language", "cpp"},
                {"helper", "meshnode 0.1.0"},
                {"grpc", "grpc++ " + grpc::Version()},
                {"features", {"link", "recode", "json"}}});
    } else if (name == "link") {
      Make(op);
      Done(id);
    } else if (name == "call") {
      meshnode::Pending& pending = pendings_[id.get<std::uint64_t>()];
      pending = Find(op).Call(RequestOf(op), [id](Result r) {
        if (!r.ok()) return Failed(id, r.error());
        Json out = {{"headers", HeadersOut(r.reply().headers)}, {"trailers", HeadersOut(r.reply().trailers)}};
        PayloadOut(r.reply().payload, &out);
        Done(id, out);
      });
    } else if (name == "push") {
      Find(op).Send(RequestOf(op), [id](const Result& r) { return r.ok() ? Done(id) : Failed(id, r.error()); });
    } else if (name == "query") {
      Query(id, op);
    } else if (name == "cancel") {
      pendings_[op.value("call", std::uint64_t{0})].Cancel();
      Done(id);
    } else if (name == "close") {
      Link* link = &Find(op);
      std::thread([id, link] {
        link->Close();
        Done(id);
      }).detach();
    } else if (name == "recode") {
      const std::string message = op.value("message", "");
      if (message == "LinkRequest") return Done(id, Recoded<mesh::v1::LinkRequest>(op));
      if (message == "LinkResponse") return Done(id, Recoded<mesh::v1::LinkResponse>(op));
      if (message == "Frame") return Done(id, Recoded<mesh::v1::Frame>(op));
      Bug(id, "unknown message " + message);
    } else {
      Bug(id, "unknown op " + name);
    }
  }

  void Make(const Json& op) {
    meshnode::Options o;
    const auto millis = [&op](const char* key, std::chrono::milliseconds* to) {
      if (const int ms = op.value(key, 0)) *to = std::chrono::milliseconds(ms);
    };
    o.node = op.value("node", "");
    o.process = op.value("process", "");
    millis("heartbeat_interval_ms", &o.heartbeat_interval);
    millis("connect_timeout_ms", &o.dial_timeout);
    millis("backoff_min_ms", &o.backoff_min);
    millis("backoff_max_ms", &o.backoff_max);
    if (const auto n = op.value("max_batch_bytes", 0u)) o.max_batch_bytes = n;
    if (const auto n = op.value("max_message_bytes", std::uint64_t{0})) o.max_message_bytes = n;
    if (const auto n = op.value("max_unfinished_bytes", std::uint64_t{0})) o.max_unfinished_bytes = n;
    links_[op.at("link")] = std::make_unique<Link>(op.at("address").get<std::string>(), o);
  }

  void Query(const Json& id, const Json& op) {
    std::optional<std::chrono::microseconds> timeout;
    if (const int ms = op.value("timeout_ms", 0)) timeout = std::chrono::milliseconds(ms);
    // A future is waited for by a thread of its own.
    std::thread([id, handle = Find(op).Query(op.value("name", ""), timeout)]() mutable {
      try {
        Done(id, {{"handle", Address::Handle(handle.get()).ToString().substr(1)}});
      } catch (const meshnode::Error& e) {
        Failed(id, e);
      }
    }).detach();
  }

  Link& Find(const Json& op) { return *links_.at(op.value("link", "")); }

  std::map<std::string, std::unique_ptr<Link>> links_;
  std::map<std::uint64_t, meshnode::Pending> pendings_;
};

}  // namespace

int main() {
  auto* driver = new Driver;  // it is left as it is at the end
  for (std::string line; std::getline(std::cin, line);) driver->Run(Json::parse(line, nullptr, false));
  std::_Exit(0);
}
