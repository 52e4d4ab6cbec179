#include <string>

#include "absl/strings/str_cat.h"
#include "client/cpp/sdk/convert.h"
#include "proto/grpc_status.h"
#include "proto/status_details.h"

namespace flexquant {

const char* StatusCodeName(StatusCode code) {
  static constexpr const char* kNames[] = {
      "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
      "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
      "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
      "DATA_LOSS", "UNAUTHENTICATED"};
  const auto index = static_cast<size_t>(code);
  return index < std::size(kNames) ? kNames[index] : "UNKNOWN";
}

std::string Status::ToString() const {
  std::string text = ok() ? "OK" : absl::StrCat(StatusCodeName(code), ": ", message);
  for (const FieldError& error : field_errors) {
    absl::StrAppend(&text, "\n  ", error.field, ": ", error.description);
  }
  if (retry_delay.has_value()) {
    absl::StrAppend(&text, "\n  try again in ", std::chrono::duration<double>(*retry_delay).count(), " s");
  }
  return text;
}

namespace sdk {

Status FromAbsl(const absl::Status& status) {
  Status result;
  result.code = static_cast<StatusCode>(status.code());
  result.message = std::string(status.message());
  for (const auto& error : InvalidFields(status)) {
    result.field_errors.push_back({error.field, error.description});
  }
  result.reason = ErrorReason(status);
  if (const auto delay = RetryDelay(status)) {
    result.retry_delay = absl::ToChronoNanoseconds(*delay);
  }
  return result;
}

}  // namespace sdk
}  // namespace flexquant
