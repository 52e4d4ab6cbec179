#ifndef FLEXQUANT_CONTROLLER_POLICY_SHARED_LEVEL_H_
#define FLEXQUANT_CONTROLLER_POLICY_SHARED_LEVEL_H_

#include "absl/types/span.h"
#include "common/precision.h"
#include "controller/policy/precision_policy.h"
#include "controller/work_times.h"

namespace flexquant::controller {

// The one plan of sequences that decode in a step and weigh levels of the same ladder: at no layer group below `floor`
// (the plans of their other batch-mates; empty = none), from the highest of their lowest levels to the highest of all.
// All of them wait for the step, so each adds its time and its lambda * predicted KL, and the sum is minimised; the
// time is counted in bytes, as that of the top precision were for one alone. `floor_tokens` are those of the other
// batch-mates. At least one demand.
PrecisionPlan SharedPlan(absl::Span<const LevelDemand> demands, const PrecisionPlan& floor, const WorkTimes& cost = {},
                         uint32_t floor_tokens = 0);

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_POLICY_SHARED_LEVEL_H_
