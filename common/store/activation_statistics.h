#ifndef FLEXQUANT_COMMON_STORE_ACTIVATION_STATISTICS_H_
#define FLEXQUANT_COMMON_STORE_ACTIVATION_STATISTICS_H_

#include <vector>

namespace flexquant {

// How large the inputs of a layer group are, channel by channel, on some text.
struct ActivationStatistics {
  // [num_layer_groups][cols]: mean of x_j^2 over tokens.
  std::vector<std::vector<float>> mean_square;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_STORE_ACTIVATION_STATISTICS_H_
