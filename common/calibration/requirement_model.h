#ifndef FLEXQUANT_COMMON_CALIBRATION_REQUIREMENT_MODEL_H_
#define FLEXQUANT_COMMON_CALIBRATION_REQUIREMENT_MODEL_H_

#include <array>
#include <cstddef>
#include <vector>

#include "absl/types/span.h"
#include "common/calibration/signal_history.h"

namespace flexquant {

// The precision requirement model at one lookahead: the expected KL of each rung of a ladder at the next position,
// given the signals of the tokens known by then. log E[KL] is linear in the standardised features. A value type.
struct RequirementModel {
  // Intercept, then one a feature.
  using Coefficients = std::array<double, 1 + kRequirementFeatures>;

  RequirementFeatures mean{};
  RequirementFeatures scale{};      // > 0
  std::vector<Coefficients> rungs;  // [rungs - 1]; the last rung is the top precision, whose KL is 0

  // Nats, `kl` [rungs]. Features far from those of the fit count as its outermost.
  void Predict(const RequirementFeatures& features, absl::Span<double> kl) const;

  bool operator==(const RequirementModel&) const = default;
};

// Fits a model: rows of features, and for each rung but the top one its KL in nats at the rows' positions. At least one
// row. Quasi-likelihood with variance proportional to the square of the mean (a gamma regression with log link), a
// little ridge; then each rung's intercept is set so that the mean prediction is the mean KL. Deterministic.
RequirementModel FitRequirementModel(absl::Span<const RequirementFeatures> features,
                                     absl::Span<const std::vector<double>> kl);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_CALIBRATION_REQUIREMENT_MODEL_H_
