#ifndef FLEXQUANT_TESTS_CONTROLLER_CALIBRATED_MODEL_H_
#define FLEXQUANT_TESTS_CONTROLLER_CALIBRATED_MODEL_H_

#include <memory>
#include <vector>

#include "common/calibration/calibration.h"
#include "tests/calibration/planted.h"
#include "tests/controller/test_model.h"

namespace flexquant::controller {

// The uniform widths of a model in groups of 32 as a measured ladder, with planted KL.
inline Calibration PlantedCalibration(const ModelConfig& config, const HoldoutSamples& samples) {
  const LayerGroups groups(config, 32, Dtype::kF32);
  Calibration calibration;
  std::vector<double> bytes;
  for (size_t level = 0; level < kPrecisions.size(); ++level) {
    Rung& rung = calibration.rungs.emplace_back();
    rung.plan = PrecisionPlan::Uniform(kPrecisions[level], groups.count());
    rung.bytes = groups.BytesRead(rung.plan);
    rung.mean_kl = kPlantedKl[level];
    bytes.push_back(static_cast<double>(rung.bytes));
  }
  for (int lookahead = 0; lookahead <= kMaxLookahead; ++lookahead) {
    calibration.requirements[static_cast<size_t>(lookahead)] = BuildRequirement(samples, bytes, lookahead);
  }
  return calibration;
}

// Of TestModel.
inline Calibration TestCalibration() { return PlantedCalibration(TestConfig(), PlantedSamples(8, 256)); }

inline ModelPackage CalibratedTestModel(int lookahead) {
  return MakeModelPackage("tiny", "revision", TestConfig(), LayerGroups(TestConfig(), 32, Dtype::kF32),
                          /*has_reference=*/false, std::make_unique<ByteTokenizer>(), TestCalibration(), lookahead);
}

}  // namespace flexquant::controller

#endif  // FLEXQUANT_TESTS_CONTROLLER_CALIBRATED_MODEL_H_
