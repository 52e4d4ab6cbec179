#ifndef FLEXQUANT_EXECUTOR_SESSION_VALIDATION_H_
#define FLEXQUANT_EXECUTOR_SESSION_VALIDATION_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "executor/model_runner.h"
#include "flexquant/executor/v1/executor.pb.h"
#include "kernels/sampling.h"

namespace flexquant::executor {

// Plans of a stream; their ids are below it.
inline constexpr uint32_t kMaxPlans = 4096;

// INVALID_ARGUMENT naming the field, its value and the allowed range.
absl::StatusOr<SamplingConfig> ParseSampling(const v1::Sampling& sampling);

// What must hold for a step as a whole: number of sequences and tokens, no sequence twice. INVALID_ARGUMENT.
absl::Status ValidateStep(const v1::StepRequest& step, const RunnerInfo& info);

// What a stream holds of a sequence before a step.
struct SequenceExtent {
  uint32_t length = 0;  // tokens in the KV cache
  size_t blocks = 0;    // of the KV cache
  uint32_t prompt_tokens = 0;
};

// What must hold for one sequence of a step, which computes `num_tokens` tokens of it: FAILED_PRECONDITION if they do
// not follow what the stream holds, INVALID_ARGUMENT for tokens or KV blocks that do not fit the model or the context,
// and for a sample inside the prompt.
absl::Status ValidateSequenceStep(const v1::SequenceStep& step, uint32_t num_tokens, const SequenceExtent& held,
                                  const RunnerInfo& info);

// Checks SequenceStart.cached_token_ids of a sequence's first step. INVALID_ARGUMENT.
absl::Status ValidateCachedTokens(const v1::SequenceStep& step, const RunnerInfo& info);

// INVALID_ARGUMENT naming the plan.
absl::StatusOr<PrecisionPlan> ParsePlan(const v1::Plan& plan, const RunnerInfo& info);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_SESSION_VALIDATION_H_
