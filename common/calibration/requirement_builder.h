#ifndef FLEXQUANT_COMMON_CALIBRATION_REQUIREMENT_BUILDER_H_
#define FLEXQUANT_COMMON_CALIBRATION_REQUIREMENT_BUILDER_H_

#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "common/calibration/precision_requirement.h"
#include "common/calibration/signal_history.h"
#include "common/calibration/token_signals.h"

namespace flexquant {

// What was measured on held-back windows.
struct HoldoutSamples {
  std::vector<std::vector<TokenSignals>> signals;  // [windows][positions], of the top precision
  std::vector<std::vector<double>> kl;             // [rungs - 1][positions of all windows], nats
};

// Fewest positions of a held-back window, of which there must be at least two.
inline constexpr size_t kMinHoldoutPositions = 3;

using UsedFeatures = std::array<bool, kRequirementFeatures>;
inline constexpr UsedFeatures kAllFeatures = {true, true, true, true, true};

// How good the model of a lookahead is on the half of the windows that it was not fitted on.
struct RequirementQuality {
  // Mean gamma deviance over positions and rungs but the top one: of the model, and of each rung's mean KL alone.
  double deviance = 0;
  double constant_deviance = 0;
  // Mean KL predicted and measured, in tenths of the positions (of every rung but the top one) by what is predicted
  // relative to the rung's mean, lowest first.
  std::vector<std::pair<double, double>> tenths;
};

// As for BuildRequirement.
RequirementQuality CheckRequirement(const HoldoutSamples& samples, int lookahead);

// Fits the model of a lookahead (0 or 1) to all samples. Curve and aims are cross-fitted: each half of the windows
// (even, odd) is simulated with a model of the other half. A request is a run of up to 128 positions, across windows.
// `bytes` [rungs] from the cheapest rung to the top precision. Features that are not in `used` have no effect.
// Deterministic.
PrecisionRequirement BuildRequirement(const HoldoutSamples& samples, absl::Span<const double> bytes, int lookahead,
                                      const UsedFeatures& used = kAllFeatures);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_CALIBRATION_REQUIREMENT_BUILDER_H_
