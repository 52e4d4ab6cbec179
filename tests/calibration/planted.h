#ifndef FLEXQUANT_TESTS_CALIBRATION_PLANTED_H_
#define FLEXQUANT_TESTS_CALIBRATION_PLANTED_H_

#include <cmath>
#include <cstddef>
#include <random>
#include <vector>

#include "common/calibration/requirement_builder.h"

namespace flexquant {

// Mean KL of the planted rungs.
inline const std::vector<double> kPlantedKl = {0.8, 0.2, 0.05, 0.01, 0};

// Windows whose KL follows the entropy two positions before, so that both lookaheads know something of it.
inline HoldoutSamples PlantedSamples(size_t windows, size_t positions) {
  HoldoutSamples samples;
  samples.kl.resize(kPlantedKl.size() - 1);
  std::mt19937_64 random(11);
  std::gamma_distribution<double> gamma(0.5, 2);
  for (size_t w = 0; w < windows; ++w) {
    auto& window = samples.signals.emplace_back();
    for (size_t i = 0; i < positions; ++i) {
      const double entropy = 1.5 * gamma(random);
      window.push_back({entropy, std::exp(-entropy), 5 * std::exp(-entropy)});
      const double scale = i < 2 ? 1 : (window[i - 2].entropy_nats + 0.05) / 1.55;
      for (size_t r = 0; r < samples.kl.size(); ++r) {
        samples.kl[r].push_back(kPlantedKl[r] * scale * gamma(random));
      }
    }
  }
  return samples;
}

}  // namespace flexquant

#endif  // FLEXQUANT_TESTS_CALIBRATION_PLANTED_H_
