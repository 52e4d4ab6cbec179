// How callers may cut a product: by tiles and by tokens.

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/precision.h"
#include "kernels/kernels.h"
#include "tests/kernels/cpu/isa_test.h"
#include "tests/kernels/cpu/quantized_tokens.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using testing::QuantizedTokens;
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

class NestedGemmTest : public testing::IsaTest {};

TEST_P(NestedGemmTest, ATokensResultDependsNeitherOnItsBatchNorOnTheTileSplit) {
  for (const int64_t cols : {172, 576}) {
    const RandomMatrix matrix(100, cols, 128, 11);
    const NestedMatrix& w = matrix.view();
    for (const int64_t rows : {1, 2}) {
      const auto x = RandomFloats(400 * cols, 12);
      const QuantizedTokens a(kernels(), x.data(), cols, 400, cols, 128, rows);
      for (const int bits : kPrecisions) {
        SCOPED_TRACE(::testing::Message() << bits << " bits, " << rows << " rows a token, " << cols << " columns");
        const auto whole = RunGemm(kernels(), w, bits, a.view, w.rows);
        for (const int64_t m : {0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 16, 17, 64}) {
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
    const QuantizedTokens a(kernels(), RandomFloats(m * 96, 6).data(), 96, m, 96, 32, 1);
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
