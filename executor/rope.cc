#include "executor/rope.h"

#include <cmath>
#include <numbers>

namespace flexquant::executor {
namespace {

// Llama 3.1's rule: short wavelengths stay, long ones are stretched by the factor, those between are blended.
double Llama3Frequency(double frequency, const RopeConfig& rope) {
  const double turns = static_cast<double>(rope.original_max_position) * frequency / (2.0 * std::numbers::pi);
  if (turns > rope.high_freq_factor) {
    return frequency;
  }
  if (turns < rope.low_freq_factor) {
    return frequency / rope.factor;
  }
  const double blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1.0 - blend) * frequency / rope.factor + blend * frequency;
}

}  // namespace

std::vector<double> RopeFrequencies(const RopeConfig& rope, int64_t head_dim) {
  std::vector<double> frequencies(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double& frequency = frequencies[i];
    frequency = std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    if (i < rope.frequency_divisors.size()) {
      frequency /= static_cast<double>(rope.frequency_divisors[i]);
    } else if (rope.scaling == RopeScaling::kLinear) {
      frequency /= rope.factor;
    } else if (rope.scaling == RopeScaling::kLlama3) {
      frequency = Llama3Frequency(frequency, rope);
    }
  }
  return frequencies;
}

void RopeAngles(const std::vector<double>& frequencies, int64_t position, float* cos, float* sin) {
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double angle = static_cast<double>(position) * frequencies[i];
    cos[i] = static_cast<float>(std::cos(angle));
    sin[i] = static_cast<float>(std::sin(angle));
  }
}

}  // namespace flexquant::executor
