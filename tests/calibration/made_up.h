#ifndef FLEXQUANT_TESTS_CALIBRATION_MADE_UP_H_
#define FLEXQUANT_TESTS_CALIBRATION_MADE_UP_H_

#include <cmath>
#include <string>
#include <utility>

#include "common/calibration/calibration.h"

namespace flexquant {

// A rung whose plan has 5 layer groups of `bits`.
inline Rung MadeUpRung(uint64_t bytes, double mean_kl, int bits = 4) {
  Rung rung;
  rung.plan = PrecisionPlan::Uniform(bits, 5);
  rung.bytes = bytes;
  rung.predicted_kl = mean_kl * 1.1;
  rung.mean_kl = mean_kl;
  rung.median_kl = mean_kl / 3;
  rung.p99_kl = mean_kl * 20;
  rung.top1_agreement = 1 - mean_kl / 4;
  rung.perplexity = 20 + mean_kl;
  return rung;
}

// Of a ladder of four rungs; numbers distinct from those of another `seed`.
inline PrecisionRequirement MadeUpRequirement(double seed) {
  PrecisionRequirement requirement;
  double value = seed;
  for (size_t i = 0; i < kRequirementFeatures; ++i) {
    requirement.model.mean[i] = value = -1.1 * value;
    requirement.model.scale[i] = std::abs(value) / 3;
  }
  for (int rung = 0; rung < 3; ++rung) {
    for (double& coefficient : requirement.model.rungs.emplace_back()) {
      coefficient = value = -1.01 * value;
    }
  }
  requirement.curve = {{1000 * seed, 1000, 0.7, 0.71}, {3000 * seed, 1400, 0.2, 0.19}, {90000 * seed, 2500, 0, 0}};
  requirement.aims = {{0.01 * seed, 1900, 0.011, 0.02}, {0.1 * seed, 1500, 0.09, 0.3}};
  return requirement;
}

// Of a model with one block, all numbers distinct.
inline Calibration MadeUpCalibration() {
  Calibration calibration;
  calibration.flexquant_version = "0.1.0";
  calibration.model_revision = "0123456789abcdef0123456789abcdef";
  calibration.text_name = "wiki \"quoted\".txt";
  calibration.text_checksum = "fedcba9876543210fedcba9876543210";
  calibration.window = 256;
  calibration.positions = 1500;
  calibration.holdout_positions = 700;
  calibration.bucket_positions = {100, 200, 300, 400, 500};
  double kl = 1.0 / 3;
  for (int group = 0; group < 5; ++group) {
    GroupSensitivity sensitivity;
    for (Sensitivity& width : sensitivity) {
      width.mean_kl = kl *= 0.7;
      for (double& bucket : width.bucket_kl) {
        bucket = kl *= 0.9;
      }
    }
    calibration.sensitivities.push_back(sensitivity);
  }
  calibration.rungs = {MadeUpRung(1000, 0.7, 3), MadeUpRung(1300, 0.2, 4), MadeUpRung(1999, 0.01, 6),
                       MadeUpRung(2500, 0, 8)};
  calibration.requirements = {MadeUpRequirement(1.0 / 7), MadeUpRequirement(1.0 / 6)};
  calibration.backend_loss = {1.0 / 2500, 1.0 / 1400};
  return calibration;
}

}  // namespace flexquant

#endif  // FLEXQUANT_TESTS_CALIBRATION_MADE_UP_H_
