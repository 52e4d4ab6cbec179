#ifndef FLEXQUANT_CONTROLLER_POLICY_POLICY_FACTORY_H_
#define FLEXQUANT_CONTROLLER_POLICY_POLICY_FACTORY_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/calibration/calibration.h"
#include "controller/layer_groups.h"
#include "controller/policy/calibrated_ladder.h"
#include "controller/policy/kl_correction.h"
#include "controller/policy/ladder.h"
#include "controller/policy/precision_policy.h"
#include "flexquant/v1/precision.pb.h"

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

// A policy ready to run.
struct ResolvedPolicy {
  std::unique_ptr<PrecisionPolicy> policy;
  PrecisionPlan prefill_plan;     // the top precision, or 16 for `fixed_bits` 16
  v1::PrecisionPolicy effective;  // parameters in force
};

// Checks `request` (an unset policy means max_mean_kl on a calibrated model, dynamic on another), fills in what is
// unset and makes the policy; `sampling_seed` seeds the random control if it has no seed of its own. INVALID_ARGUMENT
// with the field's path below "precision", its value, the allowed range and the remedy; NOT_FOUND for an unknown plan
// name; FAILED_PRECONDITION for a policy that needs a calibrated model.
absl::StatusOr<ResolvedPolicy> MakePolicy(const v1::PrecisionPolicy& request, const PolicyContext& context,
                                          uint64_t sampling_seed);

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_POLICY_POLICY_FACTORY_H_
