#ifndef FLEXQUANT_COMMON_STORE_ACTIVATION_STATISTICS_H_
#define FLEXQUANT_COMMON_STORE_ACTIVATION_STATISTICS_H_

#include <vector>

#include "common/store/input_moments.h"

namespace flexquant {

// How large the inputs of a layer group are, channel by channel, on some text.
struct ActivationStatistics {
  // [num_layer_groups][cols]: mean of x_j^2 over tokens.
  std::vector<std::vector<float>> mean_square;
  // [num_layer_groups]: how they go together.
  std::vector<InputMoments> moments;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_STORE_ACTIVATION_STATISTICS_H_
