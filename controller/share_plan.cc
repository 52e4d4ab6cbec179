#include "controller/share_plan.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "controller/policy/calibrated_ladder.h"
#include "controller/policy/shared_level.h"

namespace flexquant::controller {
namespace {

// The plan of those that weigh and, in `others`, that of their batch-mates.
PrecisionPlan Weigh(const std::vector<LevelDemand>& demands, const WorkTimes& cost, uint32_t other_tokens,
                    PrecisionPlan& others) {
  const PrecisionPlan joined = SharedPlan(demands, others, cost, other_tokens);
  if (others.bits.empty() || !cost.known()) {
    others = joined;
    return joined;
  }
  const LayerGroups& groups = *demands[0].ladder->groups;
  const auto time = [&](const PrecisionPlan& plan, double tokens) {
    return cost.Of({static_cast<double>(groups.BytesRead(plan)), tokens * groups.Products(plan)});
  };
  const auto own_tokens = static_cast<double>(demands.size());
  PrecisionPlan own = SharedPlan(demands, {}, cost);
  if (time(own, own_tokens) + time(others, other_tokens) < time(joined, own_tokens + other_tokens)) {
    return own;
  }
  others = joined;
  return joined;
}

}  // namespace

void ShareOnePlan(std::vector<StepMember>& members, const WorkTimes& cost) {
  PrecisionPlan others;
  uint32_t other_tokens = 0;
  std::vector<LevelDemand> demands;
  std::vector<StepMember*> weighing;
  for (StepMember& member : members) {
    if (member.sequence->isolated()) {
      continue;
    }
    const bool decodes = member.step.token_ids.empty();
    if (const LevelDemand* demand = member.sequence->demand(); decodes && demand != nullptr) {
      demands.push_back(*demand);
      weighing.push_back(&member);
      continue;
    }
    other_tokens += static_cast<uint32_t>(std::max<size_t>(member.step.token_ids.size(), 1));
    others.bits.resize(member.step.plan.bits.size(), 0);
    for (size_t group = 0; group < others.bits.size(); ++group) {
      others.bits[group] = std::max(others.bits[group], member.step.plan.bits[group]);
    }
  }
  if (demands.size() == 1 && others.bits.empty()) {
    return;  // one that shares with nobody has its plan
  }
  const PrecisionPlan weighed = demands.empty() ? others : Weigh(demands, cost, other_tokens, others);
  for (StepMember& member : members) {
    if (!member.sequence->isolated()) {
      member.step.plan = others;
    }
  }
  for (StepMember* member : weighing) {
    member->step.plan = weighed;
  }
}

}  // namespace flexquant::controller
