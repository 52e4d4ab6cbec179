#ifndef FLEXQUANT_EXECUTOR_DECODE_STEPPER_H_
#define FLEXQUANT_EXECUTOR_DECODE_STEPPER_H_

// Decode steps one after another, each at a plan of its own, for measurements of what changing plans costs.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/precision.h"
#include "executor/device_bench.h"
#include "executor/model_runner.h"

namespace flexquant::executor {

// Not thread-safe.
class DecodeStepper {
 public:
  virtual ~DecodeStepper() = default;

  // For people.
  virtual const std::string& device() const = 0;
  // Begins step `step` of a sequence, which has as many layer groups as `plan`; the plan must live until Finish.
  virtual absl::Status Start(int64_t step, const PrecisionPlan& plan) = 0;
  // Waits for its result.
  virtual absl::Status Finish() = 0;
};

// Steps of one sequence on `runner`, which must outlive the stepper; the tokens are arbitrary. The prompt of `context`
// tokens is computed here, at the top precision; steps [0, steps) are the tokens behind it. RESOURCE_EXHAUSTED if the
// KV cache or the model's context is too short for both.
absl::StatusOr<std::unique_ptr<DecodeStepper>> MakeRunnerStepper(ModelRunner& runner, int64_t context, int64_t steps);

// Steps on a GPU of options.batches[0] sequences with random weights of options.config, always the last of
// options.contexts[0] tokens; all sequences at the step's plan. As in an executor, the inputs are copied before each
// step. UNIMPLEMENTED in a build without CUDA; RESOURCE_EXHAUSTED if it does not fit.
absl::StatusOr<std::unique_ptr<DecodeStepper>> MakeDeviceStepper(const DeviceBenchOptions& options);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_DECODE_STEPPER_H_
