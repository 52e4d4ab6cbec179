#ifndef FLEXQUANT_CONTROLLER_POLICY_CALIBRATED_LADDER_H_
#define FLEXQUANT_CONTROLLER_POLICY_CALIBRATED_LADDER_H_

#include <utility>
#include <vector>

#include "common/calibration/calibration.h"
#include "common/calibration/level_chooser.h"
#include "common/calibration/precision_requirement.h"
#include "common/precision.h"
#include "controller/layer_groups.h"

namespace flexquant::controller {

// A calibrated model's ladder with what its levels cost. Immutable once made, so thread-safe.
struct CalibratedLadder {
  std::vector<PrecisionPlan> plans;  // from cheapest to the top precision
  std::vector<double> bytes;         // [plans], that a decode step reads
  std::vector<double> products;      // [plans], LayerGroups::Products
  std::vector<double> bits;          // [plans], mean bits a weight
  PrecisionRequirement requirement;  // at the controller's lookahead
  BackendLoss backend_loss;
  const LayerGroups* groups;  // outlives this
  double hysteresis = LevelChooser::kHysteresis;

  // `lookahead` in [0, kMaxLookahead].
  static CalibratedLadder Make(const Calibration& calibration, const LayerGroups& groups, int lookahead);

  // First and last level whose every layer group lies in [min_bits, max_bits]; first > last if there is none.
  std::pair<int, int> LevelsWithin(int min_bits, int max_bits) const;
  // The highest level of which no layer group has more bits than in `plan`; -1 if there is none.
  int LevelBelow(const PrecisionPlan& plan) const;
  // Bytes of a mean precision, straight between the levels; the ends' beyond them.
  double BytesAt(double mean_bits) const;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_POLICY_CALIBRATED_LADDER_H_
