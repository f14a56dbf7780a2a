// Payloads and headers as the conformance kit writes them.
#ifndef MESHNODE_TEST_WIRE_H_
#define MESHNODE_TEST_WIRE_H_

#include <meshnode/error.h>

#include <nlohmann/json.hpp>
#include <string>

using Json = nlohmann::json;

std::string Base64(const std::string& data);
std::string Unbase64(const std::string& text);  // throws where it is none

std::string PayloadIn(const Json& op);
void PayloadOut(const std::string& payload, Json* out);
meshnode::Metadata HeadersIn(const Json& op);
Json HeadersOut(const meshnode::Metadata& headers);

#endif  // MESHNODE_TEST_WIRE_H_
