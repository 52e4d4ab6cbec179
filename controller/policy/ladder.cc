#include "controller/policy/ladder.h"

#include <algorithm>

namespace flexquant::controller {

Ladder Ladder::Uniform(int num_layer_groups) {
  Ladder ladder;
  for (const int bits : kPrecisions) {
    ladder.levels.push_back(PrecisionPlan::Uniform(bits, num_layer_groups));
  }
  return ladder;
}

Ladder Ladder::Measured(const Calibration& calibration) {
  Ladder ladder;
  ladder.calibrated = true;
  for (const Rung& rung : calibration.rungs) {
    ladder.levels.push_back(rung.plan);
  }
  return ladder;
}

Ladder Ladder::Restricted(int min_bits, int max_bits) const {
  Ladder restricted;
  restricted.calibrated = calibrated;
  for (const PrecisionPlan& plan : levels) {
    if (std::all_of(plan.bits.begin(), plan.bits.end(),
                    [&](uint8_t bits) { return bits >= min_bits && bits <= max_bits; })) {
      restricted.levels.push_back(plan);
    }
  }
  return restricted;
}

}  // namespace flexquant::controller
