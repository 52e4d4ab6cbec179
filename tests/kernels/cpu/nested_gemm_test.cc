// How callers may cut a product: by tiles and by tokens.

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/precision.h"
#include "kernels/kernels.h"
#include "kernels/reference/reference.h"
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

QuantizedActivations FirstTokens(const QuantizedActivations& a, int64_t begin, int64_t m) {
  const int64_t groups = CeilDiv(a.cols, a.group_size);
  QuantizedActivations part = a;
  part.m = m;
  part.values += begin * CeilDiv(a.cols, kUnitCols) * kUnitCols;
  part.scales += begin * groups;
  part.sums += begin * groups;
  return part;
}

class NestedGemmTest : public testing::IsaTest {};

TEST_P(NestedGemmTest, ATokensResultDependsNeitherOnItsBatchNorOnTheTileSplit) {
  for (const int64_t cols : {172, 576}) {
    const RandomMatrix matrix(100, cols, 128, 11);
    const NestedMatrix& w = matrix.view();
    const int64_t m_max = 200;
    const auto a = reference::QuantizeActivations(RandomFloats(m_max * cols, 12).data(), cols, m_max, cols, 128);
    for (const int bits : kPrecisions) {
      const auto whole = RunGemm(kernels(), w, bits, a.view, w.rows);
      for (const int64_t m : {0, 1, 2, 3, 4, 5, 6, 7, 17, 64}) {
        const int64_t begin = 9;
        const auto part = RunGemm(kernels(), w, bits, FirstTokens(a.view, begin, m), w.rows);
        ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + begin * w.rows))
            << "bits " << bits << " m " << m;
      }
      for (const int64_t m : {1, 8, 200}) {
        const auto tokens = FirstTokens(a.view, 0, m);
        const auto split = RunGemm(kernels(), w, bits, tokens, w.rows, {1, 2, 5});
        ASSERT_TRUE(std::equal(split.begin(), split.end(), whole.begin())) << "bits " << bits << " m " << m;
      }
    }
  }
}

TEST_P(NestedGemmTest, LeavesOtherTilesAlone) {
  const RandomMatrix matrix(64, 96, 32, 5);
  const NestedMatrix& w = matrix.view();
  for (const int64_t m : {2, 20}) {
    const auto a = reference::QuantizeActivations(RandomFloats(m * 96, 6).data(), 96, m, 96, 32);
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
