#ifndef FLEXQUANT_CONTROLLER_POLICY_LADDER_H_
#define FLEXQUANT_CONTROLLER_POLICY_LADDER_H_

#include <vector>

#include "common/calibration/calibration.h"
#include "common/precision.h"

namespace flexquant::controller {

// See Ladder::LevelBelow.
int LevelBelow(const std::vector<PrecisionPlan>& levels, const PrecisionPlan& plan);

// Plans from cheapest (level 0) to dearest; never empty. A value type.
struct Ladder {
  std::vector<PrecisionPlan> levels;
  bool calibrated = false;  // whether the KL of each level has been measured

  // The ladder of a model nobody has calibrated: one uniform plan for every quantised precision.
  static Ladder Uniform(int num_layer_groups);
  // The rungs that `flexquant calibrate` measured.
  static Ladder Measured(const Calibration& calibration);

  // The levels whose every layer group lies in [min_bits, max_bits]; may be empty.
  Ladder Restricted(int min_bits, int max_bits) const;

  // The highest level of which no layer group has more bits than in `plan`; -1 if there is none.
  int LevelBelow(const PrecisionPlan& plan) const { return controller::LevelBelow(levels, plan); }

  int top_level() const { return static_cast<int>(levels.size()) - 1; }
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_POLICY_LADDER_H_
