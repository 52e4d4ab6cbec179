#ifndef FLEXQUANT_CLIENT_CLI_LOAD_LOAD_RUN_H_
#define FLEXQUANT_CLIENT_CLI_LOAD_LOAD_RUN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cli/load/trace.h"
#include "client/cpp/client.h"

namespace flexquant::cli {

// How a trace is played.
struct LoadOptions {
  v1::GenerateRequest request;  // of every request: all but prompt, length, seed and id
  double time_scale = 1;        // arrivals come this much later than in the trace; 0 = all at once
  double token_scale = 1;       // prompts and answers have this share of the trace's tokens
  uint32_t max_prompt_tokens = 1024;
  uint32_t max_answer_tokens = 256;
  uint32_t vocab_size = 1;
  uint64_t seed = 1;
  double cancel_share = 0;  // of the requests, which are cancelled in the midst of their answer
  // A request that arrives while so many run is not sent: the client would measure itself.
  uint32_t max_concurrent = 4096;
};

// What became of one request.
struct LoadResult {
  size_t index = 0;
  absl::Duration arrival;  // after the start, as planned
  absl::Duration late;     // sent so much after it was due
  bool cancelled = false;  // by us
  absl::Status status;
  uint32_t prompt_tokens = 0;
  std::vector<uint32_t> token_ids;
  absl::Duration time_to_first_token;    // from sending; with any token
  absl::Duration time_per_output_token;  // with two or more
  absl::Duration longest_gap;            // between two messages with tokens
  absl::Duration end;                    // after the start
  double mean_bits = 0;                  // of an answer that ended well
  double weight_bytes_read = 0;
  double weight_bytes_top = 0;
};

// Plays a trace open loop: every request leaves when its time has come, whatever became of those before. Each has a
// thread of its own. `progress(done)` is called again and again. CANCELLED if stopped by a signal, which ends what was
// under way.
absl::Status PlayTrace(const client::Client& client, const std::vector<TraceRequest>& trace, const LoadOptions& options,
                       absl::FunctionRef<void(size_t done)> progress, std::vector<LoadResult>* results);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_LOAD_LOAD_RUN_H_
