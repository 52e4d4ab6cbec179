#ifndef FLEXQUANT_CONTROLLER_STEP_PROTO_H_
#define FLEXQUANT_CONTROLLER_STEP_PROTO_H_

// Between the executor protocol's messages and the types of controller/step.h.

#include <cstdint>

#include "controller/step.h"
#include "flexquant/executor/v1/executor.pb.h"

namespace flexquant::controller {

void ToProto(const SequenceStep& step, uint32_t plan_id, executor::v1::SequenceStep* proto);

// The executor is trusted as little as any peer: an unknown code, or signals that are not finite, make the sequence's
// status an error, and an audit that is no KL counts as none.
StepResult FromProto(const executor::v1::StepResult& proto);

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_STEP_PROTO_H_
