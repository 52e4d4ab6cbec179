#ifndef FLEXQUANT_CONTROLLER_POLICY_SHARED_LEVEL_H_
#define FLEXQUANT_CONTROLLER_POLICY_SHARED_LEVEL_H_

#include "absl/types/span.h"
#include "common/precision.h"
#include "controller/policy/precision_policy.h"

namespace flexquant::controller {

// The one plan of sequences that share a step and weigh levels of the same ladder: at no layer group below `floor` (the
// plans of their other batch-mates; empty = none), at the level that minimises bytes + the sum of lambda * predicted KL
// over the sequences, from the highest of their lowest levels to the highest of all. At least one demand.
PrecisionPlan SharedPlan(absl::Span<const LevelDemand> demands, const PrecisionPlan& floor);

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_POLICY_SHARED_LEVEL_H_
