#ifndef FLEXQUANT_CLIENT_CLI_ANSWER_H_
#define FLEXQUANT_CLIENT_CLI_ANSWER_H_

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "client/cli/json_output.h"
#include "client/cpp/client.h"

namespace flexquant::cli {

// An answer as far as it came.
struct Answer {
  v1::GenerateResponse response;  // `finished` is made up from what came if the answer did not end well
  bool complete = false;
};

// Generates with token infos asked for, calling `on_delta` as text arrives. Ctrl-C cancels the call: CANCELLED, and
// `answer` holds what came before.
absl::Status RunAnswer(const client::Client& client, v1::GenerateRequest request,
                       absl::FunctionRef<void(const v1::GenerationDelta&)> on_delta, Answer& answer);

// The machine-readable object of --json. `token_info`: with every token's bits and signals.
Json AnswerToJson(const Answer& answer, bool token_info);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_ANSWER_H_
