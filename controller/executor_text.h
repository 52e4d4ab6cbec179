#ifndef FLEXQUANT_CONTROLLER_EXECUTOR_TEXT_H_
#define FLEXQUANT_CONTROLLER_EXECUTOR_TEXT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "grpcpp/support/status.h"

namespace flexquant::controller {

// Of an executor's error text, what goes on to users, logs and metrics.
inline constexpr size_t kMaxExecutorTextBytes = 512;

// `text` shortened to kMaxExecutorTextBytes, with spaces in place of control characters: it comes from a peer and goes
// into lines of a log.
std::string ExecutorText(absl::string_view text);

// Code and ExecutorText of an executor's status, which is not OK; details are dropped.
absl::Status FromExecutor(const grpc::Status& status);

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_EXECUTOR_TEXT_H_
