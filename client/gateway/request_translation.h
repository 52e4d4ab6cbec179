#ifndef FLEXQUANT_CLIENT_GATEWAY_REQUEST_TRANSLATION_H_
#define FLEXQUANT_CLIENT_GATEWAY_REQUEST_TRANSLATION_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "flexquant/v1/inference.pb.h"

namespace flexquant::gateway {

enum class Endpoint { kChatCompletions, kCompletions };

// What an HTTP request asks for.
struct TranslatedRequest {
  Endpoint endpoint = Endpoint::kChatCompletions;
  // One for each choice, in the order of their indices; prompts first. Without request ids.
  std::vector<v1::GenerateRequest> choices;
  int choices_per_prompt = 1;  // n
  bool stream = false;
  bool include_usage = false;  // of a stream, in a chunk of its own
  bool logprobs = false;
  bool token_details = false;
};

// Reads the body of a POST, and the header x-flexquant-precision (empty = none). Every field is known or refused by its
// name: INVALID_ARGUMENT with the field, the value and the remedy. Ranges are left to the server.
absl::StatusOr<TranslatedRequest> TranslateRequest(Endpoint endpoint, const std::string& body,
                                                   absl::string_view precision_header);

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_REQUEST_TRANSLATION_H_
