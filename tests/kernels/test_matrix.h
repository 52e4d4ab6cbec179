#ifndef FLEXQUANT_TESTS_KERNELS_TEST_MATRIX_H_
#define FLEXQUANT_TESTS_KERNELS_TEST_MATRIX_H_

#include <cstdint>
#include <random>
#include <vector>

#include "common/nested_matrix.h"
#include "kernels/kernels.h"

namespace flexquant::testing {

// A nested matrix of random planes; padding is random as well, since kernels must not let it through.
class RandomMatrix {
 public:
  // `exact`: scales are powers of two and zeros half integers, so that every fp32 operation on them is exact.
  RandomMatrix(int64_t rows, int64_t cols, int64_t group_size, uint32_t seed, bool exact = false);
  const NestedMatrix& view() const { return view_; }

 private:
  std::vector<uint8_t> base3_, bit4_, bit5_, bit6_, bits78_;
  std::vector<uint16_t> scales_;
  NestedMatrix view_;
};

// The identity at 8 bits: code 1 on the diagonal and 0 elsewhere, scale 1, zero 0.
class IdentityMatrix {
 public:
  IdentityMatrix(int64_t size, int64_t group_size);
  const NestedMatrix& view() const { return view_; }

 private:
  std::vector<uint8_t> zeros_;  // every plane but bits78
  std::vector<uint8_t> bits78_;
  std::vector<uint16_t> scales_;
  NestedMatrix view_;
};

// Standard normal values.
std::vector<float> RandomFloats(int64_t n, uint32_t seed, float deviation = 1.0F);

}  // namespace flexquant::testing

#endif  // FLEXQUANT_TESTS_KERNELS_TEST_MATRIX_H_
