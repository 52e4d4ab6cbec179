// How callers may cut a product: by tiles and by tokens.

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/precision.h"
#include "kernels/kernels.h"
#include "tests/kernels/cpu/isa_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using testing::RandomFloats;
using testing::RandomMatrix;

constexpr float kUntouched = -12345.0F;

// y [m, ldy]; what the kernel does not write stays kUntouched.
std::vector<float> RunGemm(const CpuKernels& kernels, const NestedMatrix& w, int bits, const QuantizedActivations& a,
                           int64_t ldy, const std::vector<int64_t>& tile_splits = {}) {
  std::vector<float> y(static_cast<size_t>(a.m * ldy), kUntouched);
  std::vector<uint8_t> workspace(NestedGemmWorkspaceBytes(w));
  int64_t begin = 0;
  for (const int64_t end : tile_splits) {
    kernels.nested_gemm(w, bits, a, begin, end, y.data(), ldy, workspace.data());
    begin = end;
  }
  kernels.nested_gemm(w, bits, a, begin, w.tiles(), y.data(), ldy, workspace.data());
  return y;
}

QuantizedActivations Tokens(const QuantizedActivations& a, int64_t begin, int64_t m) {
  QuantizedActivations part = a;
  part.m = m;
  part.values += begin * a.rows * ActivationStride(a.cols);
  part.scales += begin;
  part.sums += begin;
  return part;
}

// m random tokens of 8 or 15 bits.
struct Activations {
  std::vector<int8_t> values;
  std::vector<float> scales;
  std::vector<float> sums;
  QuantizedActivations view;

  Activations(const CpuKernels& kernels, int64_t m, int64_t cols, int64_t group, int bits) {
    const int64_t rows = bits == 8 ? 1 : 2;
    const int64_t stride = rows * ActivationStride(cols);
    values.resize(static_cast<size_t>(m * stride));
    scales.resize(static_cast<size_t>(m * CeilDiv(cols, group)));
    sums.resize(scales.size());
    const std::vector<float> x = RandomFloats(m * cols, 12);
    for (int64_t t = 0; t < m; ++t) {
      const float* from = x.data() + t * cols;
      if (bits == 8) {
        kernels.quantize_activations(from, cols, 1, cols, group, values.data() + t * stride, scales.data() + t,
                                     sums.data() + t, m);
      } else {
        kernels.quantize_activations_15(from, cols, group, values.data() + t * stride, scales.data() + t,
                                        sums.data() + t, m);
      }
    }
    view = {m, cols, group, rows, values.data(), scales.data(), sums.data(), m};
  }
};

class NestedGemmTest : public testing::IsaTest {};

TEST_P(NestedGemmTest, ATokensResultDependsNeitherOnItsBatchNorOnTheTileSplit) {
  for (const int64_t cols : {172, 576}) {
    const RandomMatrix matrix(100, cols, 128, 11);
    const NestedMatrix& w = matrix.view();
    for (const int activation_bits : {8, 15}) {
      const Activations a(kernels(), 400, cols, 128, activation_bits);
      for (const int bits : kPrecisions) {
        SCOPED_TRACE(::testing::Message() << bits << " bits, activations of " << activation_bits << ", " << cols);
        const auto whole = RunGemm(kernels(), w, bits, a.view, w.rows);
        for (const int64_t m : {0, 1, 2, 3, 4, 5, 6, 7, 17, 64}) {
          const int64_t begin = 9;
          const auto part = RunGemm(kernels(), w, bits, Tokens(a.view, begin, m), w.rows);
          ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + begin * w.rows)) << "m " << m;
        }
        for (const int64_t m : {1, 8, 400}) {
          const auto split = RunGemm(kernels(), w, bits, Tokens(a.view, 0, m), w.rows, {1, 2, 5});
          ASSERT_TRUE(std::equal(split.begin(), split.end(), whole.begin())) << "m " << m;
        }
      }
    }
  }
}

TEST_P(NestedGemmTest, LeavesOtherTilesAlone) {
  const RandomMatrix matrix(64, 96, 32, 5);
  const NestedMatrix& w = matrix.view();
  for (const int64_t m : {2, 20}) {
    const Activations a(kernels(), m, 96, 32, 8);
    std::vector<float> y(static_cast<size_t>(m * 64), kUntouched);
    std::vector<uint8_t> workspace(NestedGemmWorkspaceBytes(w));
    kernels().nested_gemm(w, 5, a.view, 1, 3, y.data(), 64, workspace.data());
    for (int64_t i = 0; i < m * 64; ++i) {
      const bool inside = i % 64 >= 16 && i % 64 < 48;
      ASSERT_EQ(y[static_cast<size_t>(i)] == kUntouched, !inside) << i;
    }
  }
}

FLEXQUANT_INSTANTIATE_ISA_TEST(NestedGemmTest);

}  // namespace
}  // namespace flexquant
