#ifndef FLEXQUANT_CLIENT_GATEWAY_JSON_TEXT_H_
#define FLEXQUANT_CLIENT_GATEWAY_JSON_TEXT_H_

// JSON written straight into a string: an answer's chunks are made once a token.

#include <string>

#include "absl/strings/string_view.h"

namespace flexquant::gateway {

// A string with its quotes; `text` is UTF-8.
void AppendJsonString(std::string& out, absl::string_view text);
// The shortest digits that read back as the same float; null if it is not finite.
void AppendJsonNumber(std::string& out, double value);

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_JSON_TEXT_H_
