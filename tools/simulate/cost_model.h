#ifndef FLEXQUANT_TOOLS_SIMULATE_COST_MODEL_H_
#define FLEXQUANT_TOOLS_SIMULATE_COST_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controller/layer_groups.h"
#include "controller/step.h"

namespace flexquant::simulate {

// What a step has that takes time.
struct StepShape {
  double sequences = 0;      // that decode
  double sequence_bits = 0;  // mean bits a weight of each of them, together
  double prompt_tokens = 0;
};
StepShape ShapeOf(const std::vector<controller::SequenceStep>& step, const controller::LayerGroups& groups);

// How long an executor computes at a step, in ms: a linear function of its shape. No term is negative.
struct CostModel {
  double fixed_ms = 0;
  double sequence_ms = 0;
  double sequence_bit_ms = 0;
  double prompt_token_ms = 0;

  absl::Duration Time(const StepShape& shape) const;
};

// A JSON object with the fields' names; those that are missing are 0. NOT_FOUND; INVALID_ARGUMENT names the field.
absl::StatusOr<CostModel> ReadCostModel(const std::string& path);
std::string ToJson(const CostModel& model);

struct MeasuredStep {
  StepShape shape;
  absl::Duration time;
};
// The least squares of relative errors. INVALID_ARGUMENT if there are fewer than 8 steps that took time.
absl::StatusOr<CostModel> FitCostModel(const std::vector<MeasuredStep>& steps);
// Median of the steps' relative errors.
double MedianError(const CostModel& model, const std::vector<MeasuredStep>& steps);

}  // namespace flexquant::simulate

#endif  // FLEXQUANT_TOOLS_SIMULATE_COST_MODEL_H_
