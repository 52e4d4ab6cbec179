#include "executor/calibration_work.h"

namespace flexquant::executor {

double CalibrationWork::OfPass(int block) const {
  double work = 0;
  for (int group = block * kLayerGroupsPerBlock; group < store_.num_layer_groups(); ++group) {
    work += static_cast<double>(store_.layer_group(group).num_weights());
  }
  // 15-bit activations are two products.
  return ActivationBits(kTopPrecision, store_.fine_activations_from()) > 8 ? 2 * work : work;
}

double CalibrationWork::OfHoldout(const std::vector<uint32_t>& window) const {
  // And what settings of a backend lose: one pass each.
  return (num_rungs_ + 2) * OfPass(0) * static_cast<double>(window.size() - 1);
}

double CalibrationWork::Left(const CalibrationWindows& windows, uint64_t units_done) const {
  const auto num_layers = static_cast<int>(store_.config().num_layers);
  double work = 0;
  uint64_t unit = 0;
  for (const std::vector<uint32_t>& window : windows.sensitivity) {
    for (int block = 0; block <= num_layers; ++block) {
      if (unit++ >= units_done) {
        const int groups = block == num_layers ? 1 : kLayerGroupsPerBlock;
        work += groups * static_cast<double>(kLowerPrecisions.size()) * OfPass(block) *
                static_cast<double>(window.size() - 1);
      }
    }
  }
  for (const std::vector<uint32_t>& window : windows.holdout) {
    if (unit++ >= units_done) {
      work += OfHoldout(window);
    }
  }
  return work;
}

}  // namespace flexquant::executor
