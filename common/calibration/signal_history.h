#ifndef FLEXQUANT_COMMON_CALIBRATION_SIGNAL_HISTORY_H_
#define FLEXQUANT_COMMON_CALIBRATION_SIGNAL_HISTORY_H_

#include <array>
#include <cstddef>

#include "common/calibration/token_signals.h"

namespace flexquant {

// Weight of the newest token in PPLE.
inline constexpr double kPpleWeight = 0.3;

inline constexpr size_t kRequirementFeatures = 5;
// What the precision requirement model is asked with: log entropy, margin (at most 10), top-1 probability of the newest
// token, log PPLE, and log entropy of the token before it.
using RequirementFeatures = std::array<double, kRequirementFeatures>;

// The signals of one sequence's tokens, in order, summed up. A value type.
class SignalHistory {
 public:
  // A signal that is not finite counts as the most uncertain one.
  void Observe(const TokenSignals& signals);
  bool empty() const { return pple_nats_ < 0; }
  // Exponentially weighted mean of the entropies; it starts at the first. Not empty.
  double pple_nats() const { return pple_nats_; }
  // Not empty. With one token, that counts as the token before too.
  RequirementFeatures Features() const;

 private:
  TokenSignals newest_;
  double entropy_before_ = 0;
  double pple_nats_ = -1;  // < 0 = no token yet
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_CALIBRATION_SIGNAL_HISTORY_H_
