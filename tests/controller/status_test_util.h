#ifndef FLEXQUANT_TESTS_CONTROLLER_STATUS_TEST_UTIL_H_
#define FLEXQUANT_TESTS_CONTROLLER_STATUS_TEST_UTIL_H_

#include <string>

#include "absl/status/status.h"
#include "google/rpc/error_details.pb.h"

namespace flexquant::controller {

template <typename Detail>
Detail DetailOf(const absl::Status& status) {
  Detail detail;
  const auto payload = status.GetPayload("type.googleapis.com/" + Detail::descriptor()->full_name());
  if (payload.has_value()) {
    detail.ParseFromString(std::string(*payload));
  }
  return detail;
}

// Path of the first violated field; empty if there is none.
inline std::string ViolatedField(const absl::Status& status) {
  const auto bad_request = DetailOf<google::rpc::BadRequest>(status);
  return bad_request.field_violations().empty() ? "" : bad_request.field_violations(0).field();
}

// Reason of the ErrorInfo; empty if there is none.
inline std::string ReasonOf(const absl::Status& status) { return DetailOf<google::rpc::ErrorInfo>(status).reason(); }

// Whether the status says when to try again.
inline bool HasRetryDelay(const absl::Status& status) {
  return DetailOf<google::rpc::RetryInfo>(status).has_retry_delay();
}

}  // namespace flexquant::controller

#endif  // FLEXQUANT_TESTS_CONTROLLER_STATUS_TEST_UTIL_H_
