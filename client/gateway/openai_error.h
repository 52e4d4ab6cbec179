#ifndef FLEXQUANT_CLIENT_GATEWAY_OPENAI_ERROR_H_
#define FLEXQUANT_CLIENT_GATEWAY_OPENAI_ERROR_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace flexquant::gateway {

// An error as OpenAI's API tells it.
struct OpenAiError {
  int http_status = 500;
  std::string message;
  std::string type;   // such as "invalid_request_error"
  std::string param;  // the request's field; empty = none
  std::string code;   // for programs; empty = none
  std::optional<absl::Duration> retry_after;
  bool retry = false;  // the same request may succeed later

  // {"error": {...}}
  std::string Body() const;
};

// What a status of the server's, or of our own reading of the request, means to a client. Paths of flexquant.v1 become
// the fields of OpenAI's that they came from.
OpenAiError ErrorOf(const absl::Status& status);

// UNAVAILABLE: what a call that the client did not cancel means by CANCELLED.
absl::Status EndedByServer(absl::string_view server);

// INVALID_ARGUMENT about a field of the HTTP request.
absl::Status BadParameter(absl::string_view param, absl::string_view problem);

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_OPENAI_ERROR_H_
