#ifndef FLEXQUANT_COMMON_CALIBRATION_PRECISION_REQUIREMENT_H_
#define FLEXQUANT_COMMON_CALIBRATION_PRECISION_REQUIREMENT_H_

#include <vector>

#include "common/calibration/requirement_model.h"

namespace flexquant {

// What a fixed price of KL brings: every token at the level that minimises bytes + lambda * predicted KL.
struct CurvePoint {
  double lambda = 0;  // bytes a nat
  double mean_bytes = 0;
  double predicted_kl = 0;  // mean, nats
  double measured_kl = 0;

  bool operator==(const CurvePoint&) const = default;
};

// What requests got that aimed at a mean predicted KL, as LevelChooser does.
struct AimPoint {
  double aim_kl = 0;  // nats
  double mean_bytes = 0;
  double mean_kl = 0;  // measured
  double p95_kl = 0;   // of the requests' mean measured KL, the value that 95 % do not exceed

  bool operator==(const AimPoint&) const = default;
};

// The precision requirement model at one lookahead and what policies that follow it cost, all of it simulated on text
// that the model in use was not fitted on. A value type.
struct PrecisionRequirement {
  RequirementModel model;
  std::vector<CurvePoint> curve;  // lambda rises, mean_bytes does not fall, predicted_kl does not rise; not empty
  std::vector<AimPoint> aims;     // aim_kl rises; not empty

  // The lambda at which the mean predicted KL, or the mean bytes, is the wanted one; the nearest end beyond the curve.
  double LambdaForKl(double mean_kl) const;
  double LambdaForBytes(double mean_bytes) const;
  // The mean predicted KL to aim at so that 95 % of the simulated requests stay within a budget of `max_mean_kl` > 0.
  // Never more than the budget.
  double SafeAim(double max_mean_kl) const;

  bool operator==(const PrecisionRequirement&) const = default;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_CALIBRATION_PRECISION_REQUIREMENT_H_
