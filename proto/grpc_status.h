#ifndef FLEXQUANT_PROTO_GRPC_STATUS_H_
#define FLEXQUANT_PROTO_GRPC_STATUS_H_

// The one conversion between absl::Status and grpc::Status, with google.rpc details.

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/support/status.h"

namespace flexquant {

// INVALID_ARGUMENT with a google.rpc.BadRequest detail for `field` (its path in the request).
absl::Status FieldViolation(absl::string_view field, absl::string_view description);

// RESOURCE_EXHAUSTED with a google.rpc.QuotaFailure detail; `subject` says whose quota it is.
absl::Status QuotaViolation(absl::string_view subject, absl::string_view description);

// Adds google.rpc.ErrorInfo (domain "flexquant"); `reason` in UPPER_SNAKE_CASE. `status` must not be OK.
absl::Status WithErrorInfo(absl::Status status, absl::string_view reason);

// Adds google.rpc.RetryInfo. `status` must not be OK.
absl::Status WithRetryDelay(absl::Status status, absl::Duration delay);

// The first `max_bytes` of UTF-8 text, whole characters only, then "..."; all of it if it is no longer.
std::string Shortened(absl::string_view text, size_t max_bytes);

// Code, message (shortened to 4 KiB) and details.
grpc::Status ToGrpcStatus(const absl::Status& status);

// The way back, details included.
absl::Status FromGrpcStatus(const grpc::Status& status);

// The reason of the ErrorInfo; empty if there is none.
std::string ErrorReason(const absl::Status& status);

// "code: message", then one indented line for each field violation and retry hint; for terminals.
std::string DescribeStatus(const absl::Status& status);

}  // namespace flexquant

#endif  // FLEXQUANT_PROTO_GRPC_STATUS_H_
