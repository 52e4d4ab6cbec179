#include "controller/policy/policy_context.h"

#include "absl/strings/str_cat.h"

namespace flexquant::controller {

std::vector<NamedPrecisionPlan> UniformNamedPlans(int num_layer_groups) {
  std::vector<NamedPrecisionPlan> plans;
  for (const int bits : kPrecisions) {
    plans.push_back({absl::StrCat("uniform-", bits), PrecisionPlan::Uniform(bits, num_layer_groups)});
  }
  return plans;
}

PolicyContext MakePolicyContext(const LayerGroups& groups, bool has_reference,
                                const std::optional<Calibration>& calibration, int lookahead) {
  PolicyContext context{
      groups.count(), has_reference, Ladder::Uniform(groups.count()), UniformNamedPlans(groups.count()),
      nullptr,        nullptr};
  if (calibration.has_value()) {
    context.calibrated = std::make_shared<CalibratedLadder>(CalibratedLadder::Make(*calibration, groups, lookahead));
    context.correction = std::make_shared<KlCorrection>();
    context.ladder = Ladder::Measured(*calibration);
    for (size_t i = 0; i < context.ladder.levels.size(); ++i) {
      context.named_plans.push_back({absl::StrCat("rung-", i), context.ladder.levels[i]});
    }
  }
  return context;
}

}  // namespace flexquant::controller
