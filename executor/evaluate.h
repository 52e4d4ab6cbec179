#ifndef FLEXQUANT_EXECUTOR_EVALUATE_H_
#define FLEXQUANT_EXECUTOR_EVALUATE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/precision.h"
#include "executor/model_runner.h"

namespace flexquant::executor {

struct EvalResult {
  double nll_nats = 0;             // sum of -log p(token i | tokens before i)
  uint64_t num_scored = 0;         // tokens scored: all but the first
  uint64_t weight_bytes_read = 0;  // over all steps
};

// Likelihood of `tokens` under `plan`, every position computed at that plan, `chunk_tokens` a step (1 = as in
// decoding). Uses the runner's KV blocks from 0 on: nothing else may be running. INVALID_ARGUMENT if there are fewer
// than two tokens, more than the context or the KV cache hold, or chunk_tokens is not in [1, max_step_tokens].
absl::StatusOr<EvalResult> Evaluate(ModelRunner& runner, absl::Span<const uint32_t> tokens, const PrecisionPlan& plan,
                                    int chunk_tokens);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_EVALUATE_H_
