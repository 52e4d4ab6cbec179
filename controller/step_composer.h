#ifndef FLEXQUANT_CONTROLLER_STEP_COMPOSER_H_
#define FLEXQUANT_CONTROLLER_STEP_COMPOSER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "controller/sequence.h"
#include "controller/step.h"

namespace flexquant::controller {

struct StepLimits {
  uint32_t max_sequences = 1;
  uint32_t max_step_tokens = 1;
  uint32_t prefill_chunk_tokens = 1;  // of all prefills of a step together, so that decodes keep their pace
  uint32_t block_tokens = 1;
  double audit_rate = 0;  // of decode steps whose policy predicts KL; 0 = none
};

// The next step of the running sequences, oldest first: every decode that is possible, then prefill chunks. Shared
// sequences all get one plan: of those that weigh levels the cheapest for all (SharedPlan), raised to the highest
// precision that any other asks for, layer group by layer group; isolated ones keep their own plan. Every limit >= 1.
// Empty if nothing can be sent. The sequences count it as sent.
std::vector<SequenceStep> ComposeStep(const std::vector<std::unique_ptr<Sequence>>& running, const StepLimits& limits);

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_STEP_COMPOSER_H_
