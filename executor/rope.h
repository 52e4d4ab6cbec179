#ifndef FLEXQUANT_EXECUTOR_ROPE_H_
#define FLEXQUANT_EXECUTOR_ROPE_H_

#include <cstdint>
#include <vector>

#include "common/model_config.h"

namespace flexquant::executor {

// Radians a position of each rotary pair, scaling included. [head_dim / 2]
std::vector<double> RopeFrequencies(const RopeConfig& rope, int64_t head_dim);

// cos and sin of each pair's angle at `position`; cos, sin [frequencies].
void RopeAngles(const std::vector<double>& frequencies, int64_t position, float* cos, float* sin);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_ROPE_H_
