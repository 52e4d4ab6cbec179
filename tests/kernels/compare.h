#ifndef FLEXQUANT_TESTS_KERNELS_COMPARE_H_
#define FLEXQUANT_TESTS_KERNELS_COMPARE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace flexquant::testing {

inline constexpr double kEpsilon = static_cast<double>(std::numeric_limits<float>::epsilon());

// Bit patterns, so that a NaN or a signed zero counts.
inline std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits(values.size());
  std::memcpy(bits.data(), values.data(), values.size() * sizeof(float));
  return bits;
}

// Rows [first, first + rows) of y [., cols].
inline std::vector<float> RowsOf(const std::vector<float>& y, int64_t cols, int64_t first, int64_t rows) {
  return {y.begin() + first * cols, y.begin() + (first + rows) * cols};
}

// Relative to the norm of the whole.
inline double RelativeError(const std::vector<float>& got, const std::vector<double>& want) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - want[i], 2);
    norm += want[i] * want[i];
  }
  return std::sqrt(difference / norm);
}

inline double LargestMagnitude(const std::vector<double>& values) {
  double largest = 0;
  for (const double x : values) {
    largest = std::max(largest, std::fabs(x));
  }
  return largest;
}

}  // namespace flexquant::testing

#endif  // FLEXQUANT_TESTS_KERNELS_COMPARE_H_
