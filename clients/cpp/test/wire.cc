#include "wire.h"

#include <openssl/evp.h>
#include <openssl/sha.h>

#include <cstdint>
#include <stdexcept>

namespace {

const unsigned char* Raw(const std::string& s) { return reinterpret_cast<const unsigned char*>(s.data()); }

bool IsBinary(const std::string& key) { return key.size() >= 4 && key.compare(key.size() - 4, 4, "-bin") == 0; }

}  // namespace

std::string Base64(const std::string& data) {
  std::string out(4 * ((data.size() + 2) / 3), '\0');
  // It writes a NUL behind, where std::string has one.
  EVP_EncodeBlock(reinterpret_cast<unsigned char*>(&out[0]), Raw(data), static_cast<int>(data.size()));
  return out;
}

std::string Unbase64(const std::string& text) {
  if (text.empty()) return "";
  std::string out(text.size() / 4 * 3, '\0');
  const int n = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(&out[0]), Raw(text), static_cast<int>(text.size()));
  if (n < 0) throw std::runtime_error("not base64");
  const std::size_t end = text.find_last_not_of('=');
  out.resize(static_cast<std::size_t>(n) - (text.size() - 1 - end));
  return out;
}

std::string PayloadIn(const Json& op) {
  auto fill = op.find("fill");
  if (fill == op.end()) return Unbase64(op.value("data", ""));
  const auto size = fill->at("size").get<std::uint64_t>(), seed = fill->value("seed", std::uint64_t{0});
  std::string out(size, '\0');
  for (std::uint64_t i = 0; i < size; ++i) out[i] = static_cast<char>(i * 31 + (i >> 8) * 7 + seed);
  return out;
}

void PayloadOut(const std::string& payload, Json* out) {
  unsigned char hash[SHA256_DIGEST_LENGTH];
  SHA256(Raw(payload), payload.size(), hash);
  constexpr char kHex[] = "0123456789abcdef";
  std::string hex;
  for (const unsigned char b : hash) hex += {kHex[b >> 4], kHex[b & 15]};
  (*out)["size"] = payload.size();
  (*out)["sha256"] = hex;
  if (payload.size() <= 4096) (*out)["data"] = Base64(payload);
}

meshnode::Metadata HeadersIn(const Json& op) {
  meshnode::Metadata headers;
  auto pairs = op.find("headers");
  if (pairs == op.end()) return headers;
  for (const Json& pair : *pairs) {
    const auto key = pair.at(0).get<std::string>(), value = pair.at(1).get<std::string>();
    headers.emplace_back(key, IsBinary(key) ? Unbase64(value) : value);
  }
  return headers;
}

Json HeadersOut(const meshnode::Metadata& headers) {
  Json out = Json::array();
  for (const auto& [key, value] : headers) out.push_back({key, IsBinary(key) ? Base64(value) : value});
  return out;
}
