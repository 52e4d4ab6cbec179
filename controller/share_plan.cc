#include "controller/share_plan.h"

#include <algorithm>
#include <cstddef>

#include "controller/policy/shared_level.h"

namespace flexquant::controller {

void ShareOnePlan(std::vector<StepMember>& members) {
  PrecisionPlan plan;
  std::vector<LevelDemand> demands;
  for (const StepMember& member : members) {
    if (member.sequence->isolated()) {
      continue;
    }
    const bool decodes = member.step.token_ids.empty();
    if (const LevelDemand* demand = member.sequence->demand(); decodes && demand != nullptr) {
      demands.push_back(*demand);
      continue;
    }
    plan.bits.resize(member.step.plan.bits.size(), 0);
    for (size_t group = 0; group < plan.bits.size(); ++group) {
      plan.bits[group] = std::max(plan.bits[group], member.step.plan.bits[group]);
    }
  }
  if (demands.size() == 1 && plan.bits.empty()) {
    return;  // one that shares with nobody has its plan
  }
  if (!demands.empty()) {
    plan = SharedPlan(demands, plan);
  }
  for (StepMember& member : members) {
    if (!member.sequence->isolated()) {
      member.step.plan = plan;
    }
  }
}

}  // namespace flexquant::controller
