// The golden frames of test/conformance, decoded and encoded again.
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "mesh/v1/cluster.pb.h"

namespace {

std::string Unhex(const std::string& hex) {
  std::string out;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return out;
}

template <class M>
void Check(const nlohmann::json& frame) {
  M m, again;
  ASSERT_TRUE(m.ParseFromString(Unhex(frame.at("hex"))));
  ASSERT_TRUE(again.ParseFromString(m.SerializeAsString()));
  EXPECT_EQ(again.SerializeAsString(), m.SerializeAsString());
  if (frame.value("lossy", false) || !frame.contains("json")) return;
  std::string json;
  if (!google::protobuf::util::MessageToJsonString(m, &json).ok()) return;  // a detail of a type that is not linked in
  EXPECT_EQ(nlohmann::json::parse(json), frame.at("json"));
}

TEST(GoldenTest, Frames) {
  std::ifstream file(MESHNODE_GOLDEN);
  if (!file) GTEST_SKIP() << "there is no " << MESHNODE_GOLDEN;
  const auto frames = nlohmann::json::parse(file);
  EXPECT_GT(frames.size(), 10u);
  for (const auto& frame : frames) {
    SCOPED_TRACE(frame.at("name").get<std::string>());
    const std::string message = frame.at("message");
    if (message == "LinkRequest") {
      Check<mesh::v1::LinkRequest>(frame);
    } else if (message == "LinkResponse") {
      Check<mesh::v1::LinkResponse>(frame);
    } else if (message == "Frame") {
      Check<mesh::v1::Frame>(frame);
    }
  }
}

}  // namespace
