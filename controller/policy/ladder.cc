#include "controller/policy/ladder.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace flexquant::controller {

int LevelBelow(const std::vector<PrecisionPlan>& levels, const PrecisionPlan& plan) {
  for (int level = static_cast<int>(levels.size()) - 1; level >= 0; --level) {
    const std::vector<uint8_t>& of_level = levels[static_cast<size_t>(level)].bits;
    if (std::equal(of_level.begin(), of_level.end(), plan.bits.begin(), plan.bits.end(), std::less_equal<>())) {
      return level;
    }
  }
  return -1;
}

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
