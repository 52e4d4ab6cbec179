#ifndef FLEXQUANT_TESTS_KERNELS_CPU_QUANTIZED_TOKENS_H_
#define FLEXQUANT_TESTS_KERNELS_CPU_QUANTIZED_TOKENS_H_

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace flexquant::testing {

// m tokens x [m, ldx] as a set of kernels quantises them, `rows` rows a token.
struct QuantizedTokens {
  std::vector<int8_t> values;
  std::vector<float> scales;
  std::vector<float> sums;
  QuantizedActivations view;  // of the vectors

  QuantizedTokens(const CpuKernels& kernels, const float* x, int64_t ldx, int64_t m, int64_t cols, int64_t group_size,
                  int64_t rows)
      : values(static_cast<size_t>(m * rows * ActivationStride(cols))),
        scales(static_cast<size_t>(m * CeilDiv(cols, group_size))),
        sums(scales.size()),
        view{m, cols, group_size, rows, values.data(), scales.data(), sums.data(), m} {
    kernels.quantize_activations(x, ldx, m, cols, group_size, rows, values.data(), scales.data(), sums.data(), m);
  }
  QuantizedTokens(const QuantizedTokens&) = delete;
  QuantizedTokens& operator=(const QuantizedTokens&) = delete;
};

}  // namespace flexquant::testing

#endif  // FLEXQUANT_TESTS_KERNELS_CPU_QUANTIZED_TOKENS_H_
