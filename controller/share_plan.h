#ifndef FLEXQUANT_CONTROLLER_SHARE_PLAN_H_
#define FLEXQUANT_CONTROLLER_SHARE_PLAN_H_

#include <vector>

#include "controller/sequence.h"
#include "controller/step.h"
#include "controller/work_times.h"

namespace flexquant::controller {

// A sequence and its part of the step that is being made.
struct StepMember {
  Sequence* sequence;
  SequenceStep step;
};

// Gives all members that are not isolated one plan: the cheapest level for all that weigh time against KL, raised to
// the widths that the others ask for. Where `cost` says that it is faster, the others, prefills most of all, keep a
// plan of their own in place of raising it for all.
void ShareOnePlan(std::vector<StepMember>& members, const WorkTimes& cost);

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_SHARE_PLAN_H_
