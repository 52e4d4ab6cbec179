#ifndef FLEXQUANT_CONTROLLER_POLICY_PRECISION_POLICY_H_
#define FLEXQUANT_CONTROLLER_POLICY_PRECISION_POLICY_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "common/calibration/token_signals.h"
#include "common/precision.h"

namespace flexquant::controller {

// Chooses the plan of each decoded token of one answer. One object an answer; not thread-safe. Calls come in order:
// before Next(i) every token below i - lookahead has been observed and no other, so with lookahead 1 the token before
// is unseen.
class PrecisionPolicy {
 public:
  virtual ~PrecisionPolicy() = default;

  // What was learned from an answer token.
  virtual void Observe(const TokenSignals& /*signals*/) {}
  // Plan that computes answer token `answer_index` (>= 1; token 0 comes out of the prefill). Valid until the next call.
  virtual const PrecisionPlan& Next(uint32_t answer_index) = 0;
  // As in PrecisionReport.policy.
  virtual absl::string_view name() const = 0;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_POLICY_PRECISION_POLICY_H_
