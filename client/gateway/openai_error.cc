#include "client/gateway/openai_error.h"

#include <array>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/gateway/json_text.h"
#include "proto/grpc_status.h"
#include "proto/status_details.h"

namespace flexquant::gateway {
namespace {

struct Meaning {
  absl::StatusCode code;
  int http_status;
  const char* type;
  const char* error_code;
};

constexpr std::array kMeanings = {
    Meaning{absl::StatusCode::kInvalidArgument, 400, "invalid_request_error", ""},
    Meaning{absl::StatusCode::kOutOfRange, 400, "invalid_request_error", ""},
    Meaning{absl::StatusCode::kFailedPrecondition, 400, "invalid_request_error", "failed_precondition"},
    Meaning{absl::StatusCode::kUnauthenticated, 401, "authentication_error", "invalid_api_key"},
    Meaning{absl::StatusCode::kPermissionDenied, 403, "permission_error", "permission_denied"},
    Meaning{absl::StatusCode::kNotFound, 404, "invalid_request_error", "not_found"},
    Meaning{absl::StatusCode::kAborted, 409, "conflict_error", "aborted"},
    Meaning{absl::StatusCode::kResourceExhausted, 429, "rate_limit_error", "rate_limit_exceeded"},
    Meaning{absl::StatusCode::kCancelled, 499, "server_error", "cancelled"},
    Meaning{absl::StatusCode::kUnimplemented, 501, "server_error", "unimplemented"},
    Meaning{absl::StatusCode::kUnavailable, 503, "server_error", "unavailable"},
    Meaning{absl::StatusCode::kDeadlineExceeded, 504, "server_error", "timeout"},
};

// Paths of flexquant.v1.GenerateRequest by their beginning.
constexpr std::array<std::pair<const char*, const char*>, 7> kParams = {{
    {"stop.stop_strings", "stop"},
    {"sampling.", ""},
    {"stop.", ""},
    {"output.top_logprobs", "top_logprobs"},
    {"chat.", ""},
    {"precision", "flexquant.precision"},
    {"batch_mode", "flexquant.batch_mode"},
}};

std::string ParamOf(const std::string& field) {
  for (const auto& [beginning, param] : kParams) {
    if (absl::StartsWith(field, beginning)) {
      return *param != '\0' ? param : field.substr(std::string(beginning).size());
    }
  }
  return field == "text" || field == "token_ids" ? "prompt" : field;
}

void AppendField(std::string& out, const char* name, const std::string& value) {
  absl::StrAppend(&out, ",\"", name, "\":");
  if (value.empty()) {
    out.append("null");
  } else {
    AppendJsonString(out, value);
  }
}

}  // namespace

std::string OpenAiError::Body() const {
  std::string body = R"({"error":{"message":)";
  AppendJsonString(body, message);
  AppendField(body, "type", type);
  AppendField(body, "param", param);
  AppendField(body, "code", code);
  return body.append("}}\n");
}

OpenAiError ErrorOf(const absl::Status& status) {
  OpenAiError error;
  error.type = "server_error";
  error.code = "internal_error";
  for (const Meaning& meaning : kMeanings) {
    if (meaning.code == status.code()) {
      error.http_status = meaning.http_status;
      error.type = meaning.type;
      error.code = meaning.error_code;
    }
  }
  error.message = std::string(status.message());
  error.param = ParamOf(ViolatedField(status));
  error.retry_after = RetryDelay(status);
  const std::string reason = ErrorReason(status);
  if (reason == "KV_CACHE_TOO_SMALL") {
    error.http_status = 400;  // no waiting helps
    error.type = "invalid_request_error";
    error.code = "context_length_exceeded";
  } else if (reason == "EXECUTOR_LOST") {
    error.http_status = 503;
    error.type = "server_error";
    error.code = "executor_lost";
  }
  error.retry = error.retry_after.has_value() || error.http_status == 503;
  return error;
}

absl::Status EndedByServer(absl::string_view server) {
  return absl::UnavailableError(absl::StrCat("the server ", server, " ended the call; is it shutting down?"));
}

absl::Status BadParameter(absl::string_view param, absl::string_view problem) { return FieldViolation(param, problem); }

}  // namespace flexquant::gateway
