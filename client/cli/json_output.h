#ifndef FLEXQUANT_CLIENT_CLI_JSON_OUTPUT_H_
#define FLEXQUANT_CLIENT_CLI_JSON_OUTPUT_H_

#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"

namespace flexquant::cli {

using Json = nlohmann::ordered_json;

// A message as JSON with its fields' proto names, numbers as numbers (64-bit ones too), enums as lower-case words
// without their prefix ("uncalibrated"). Fields that are unset and know it are left out.
Json MessageToJson(const google::protobuf::Message& message);

// Prints one object on standard output, indented.
void PrintJson(const Json& json);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_JSON_OUTPUT_H_
