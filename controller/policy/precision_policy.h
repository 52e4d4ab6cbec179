#ifndef FLEXQUANT_CONTROLLER_POLICY_PRECISION_POLICY_H_
#define FLEXQUANT_CONTROLLER_POLICY_PRECISION_POLICY_H_

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "common/calibration/backend_loss.h"
#include "common/calibration/token_signals.h"
#include "common/precision.h"

namespace flexquant {
class LevelChooser;
}

namespace flexquant::controller {

struct CalibratedLadder;

// A sequence's costs of the levels of a calibrated ladder, which both outlive this.
struct LevelDemand {
  const LevelChooser* chooser;
  const CalibratedLadder* ladder;
};

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
  // The token that Next was last called for runs at `plan`: the policy's, or a dearer one that batch-mates of a shared
  // step asked for. Returns the KL predicted of it in nats, if the policy predicts any.
  virtual std::optional<double> Charge(const PrecisionPlan& /*plan*/) { return std::nullopt; }
  // A token that Charge predicted a KL of was measured; both with backend_kl().
  virtual void Audited(double /*predicted_kl*/, double /*measured_kl*/) {}
  // What the policy weighs for the token that Next was last called for, so that a shared step can weigh it jointly;
  // null if its plan is not up for negotiation.
  virtual const LevelDemand* demand() const { return nullptr; }
  // From now on tokens run on a backend with these settings, or with settings that cost so many nats.
  virtual void SetBackend(const BackendSettings& /*settings*/) {}
  virtual void SetBackendKl(double /*nats*/) {}
  // What they cost every token beside its plan: part of what Charge predicts. 0 if the policy predicts nothing.
  virtual double backend_kl() const { return 0; }
  // What the answer's expected KL is multiplied by; 1 if the policy expects none.
  virtual double kl_factor() const { return 1; }
  // The answer was begun elsewhere with this factor, in [1, KlCorrection::kMax]. Before the first call of the others.
  virtual void SetKlFactor(double /*factor*/) {}
  // As in PrecisionReport.policy.
  virtual absl::string_view name() const = 0;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_POLICY_PRECISION_POLICY_H_
