#include "controller/executor_text.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "proto/grpc_status.h"

namespace flexquant::controller {

std::string ExecutorText(absl::string_view text) {
  std::string result = Shortened(text, kMaxExecutorTextBytes);
  std::replace_if(
      result.begin(), result.end(), [](char c) { return absl::ascii_iscntrl(static_cast<unsigned char>(c)); }, ' ');
  return result;
}

absl::Status FromExecutor(const grpc::Status& status) {
  return {FromGrpcStatus(status).code(), ExecutorText(status.error_message())};
}

}  // namespace flexquant::controller
