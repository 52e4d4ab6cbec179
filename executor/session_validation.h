#ifndef FLEXQUANT_EXECUTOR_SESSION_VALIDATION_H_
#define FLEXQUANT_EXECUTOR_SESSION_VALIDATION_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "executor/model_runner.h"
#include "flexquant/executor/v1/executor.pb.h"
#include "kernels/sampling.h"

namespace flexquant::executor {

// INVALID_ARGUMENT naming the field, its value and the allowed range.
absl::StatusOr<SamplingConfig> ParseSampling(const v1::Sampling& sampling);

// What must hold for a step as a whole: number of sequences and tokens, no sequence twice. INVALID_ARGUMENT.
absl::Status ValidateStep(const v1::StepRequest& step, const RunnerInfo& info);

// INVALID_ARGUMENT naming the plan.
absl::StatusOr<PrecisionPlan> ParsePlan(const v1::Plan& plan, const RunnerInfo& info);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_SESSION_VALIDATION_H_
