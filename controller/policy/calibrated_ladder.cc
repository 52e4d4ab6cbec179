#include "controller/policy/calibrated_ladder.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "common/check.h"
#include "controller/policy/ladder.h"

namespace flexquant::controller {

CalibratedLadder CalibratedLadder::Make(const Calibration& calibration, const LayerGroups& groups, int lookahead) {
  FQ_CHECK(lookahead >= 0 && lookahead <= kMaxLookahead);
  CalibratedLadder ladder;
  for (const Rung& rung : calibration.rungs) {
    ladder.plans.push_back(rung.plan);
    ladder.bytes.push_back(static_cast<double>(rung.bytes));
    ladder.products.push_back(groups.Products(rung.plan));
    ladder.bits.push_back(groups.MeanBits(rung.plan));
  }
  ladder.requirement = calibration.requirements[static_cast<size_t>(lookahead)];
  ladder.backend_loss = calibration.backend_loss;
  ladder.groups = &groups;
  return ladder;
}

std::pair<int, int> CalibratedLadder::LevelsWithin(int min_bits, int max_bits) const {
  // A plan of the ladder has no layer group with fewer bits than the plan before: what lies within is one piece.
  int first = static_cast<int>(plans.size());
  int last = -1;
  for (int level = 0; level < static_cast<int>(plans.size()); ++level) {
    const std::vector<uint8_t>& plan = plans[static_cast<size_t>(level)].bits;
    if (std::all_of(plan.begin(), plan.end(), [&](uint8_t b) { return b >= min_bits && b <= max_bits; })) {
      first = std::min(first, level);
      last = level;
    }
  }
  return {first, last};
}

int CalibratedLadder::LevelBelow(const PrecisionPlan& plan) const { return controller::LevelBelow(plans, plan); }

double CalibratedLadder::BytesAt(double mean_bits) const {
  const auto above = std::upper_bound(bits.begin(), bits.end(), mean_bits);
  if (above == bits.begin()) {
    return bytes.front();
  }
  if (above == bits.end()) {
    return bytes.back();
  }
  const auto i = static_cast<size_t>(above - bits.begin());
  return bytes[i - 1] + (bytes[i] - bytes[i - 1]) * (mean_bits - bits[i - 1]) / (bits[i] - bits[i - 1]);
}

}  // namespace flexquant::controller
