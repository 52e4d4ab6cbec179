#ifndef FLEXQUANT_CONTROLLER_POLICY_POLICY_CONTEXT_H_
#define FLEXQUANT_CONTROLLER_POLICY_POLICY_CONTEXT_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/calibration/calibration.h"
#include "common/precision.h"
#include "controller/layer_groups.h"
#include "controller/policy/calibrated_ladder.h"
#include "controller/policy/kl_correction.h"
#include "controller/policy/ladder.h"

namespace flexquant::controller {

struct NamedPrecisionPlan {
  std::string name;
  PrecisionPlan plan;
};

// "uniform-3" ... "uniform-8".
std::vector<NamedPrecisionPlan> UniformNamedPlans(int num_layer_groups);

// What a model offers to policies.
struct PolicyContext {
  int num_layer_groups = 0;
  bool has_reference = false;
  Ladder ladder;
  std::vector<NamedPrecisionPlan> named_plans;
  std::shared_ptr<const CalibratedLadder> calibrated;  // null if the model is not calibrated
  std::shared_ptr<KlCorrection> correction;            // of a calibrated model
};

// The uniform ladder and plans, or, of a calibrated model, the measured ladder, whose rungs are named plans too:
// "rung-0" (the cheapest) and so on. `groups` must outlive the context and its policies; `lookahead` in
// [0, kMaxLookahead].
PolicyContext MakePolicyContext(const LayerGroups& groups, bool has_reference,
                                const std::optional<Calibration>& calibration, int lookahead);

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_POLICY_POLICY_CONTEXT_H_
