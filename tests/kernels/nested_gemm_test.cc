#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "common/precision.h"
#include "kernels/kernels.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/isa_test.h"
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

TEST_P(NestedGemmTest, MatchesTheReferenceAtEveryShapeAndWidth) {
  uint32_t seed = 1;
  for (const int64_t group : {32, 64, 128}) {
    for (const int64_t cols : {1, 31, 33, 64, 172, 576}) {
      for (const int64_t rows : {1, 15, 16, 17, 100}) {
        const RandomMatrix matrix(rows, cols, group, ++seed);
        const NestedMatrix& w = matrix.view();
        for (const int64_t m : {1, 3, 17}) {
          const auto x = RandomFloats(m * cols, ++seed);
          const auto a = reference::QuantizeActivations(x.data(), cols, m, cols, group);
          for (const int bits : kPrecisions) {
            const int64_t ldy = rows + 3;
            const auto y = RunGemm(kernels(), w, bits, a.view, ldy);
            std::vector<double> magnitude;
            const auto expected = reference::NestedGemm(w, bits, a.view, &magnitude);
            for (int64_t t = 0; t < m; ++t) {
              for (int64_t n = 0; n < ldy; ++n) {
                const float got = y[static_cast<size_t>(t * ldy + n)];
                if (n >= rows) {
                  ASSERT_EQ(got, kUntouched) << "token " << t << " row " << n;
                  continue;
                }
                const auto at = static_cast<size_t>(t * rows + n);
                // One rounding each for scale, correction, product and sum, a group.
                const double tolerance = 4.0 * static_cast<double>(w.groups() + 1) *
                                         static_cast<double>(std::numeric_limits<float>::epsilon()) * magnitude[at];
                ASSERT_NEAR(static_cast<double>(got), expected[at], tolerance)
                    << "bits " << bits << " cols " << cols << " rows " << rows << " group " << group << " token " << t
                    << " row " << n;
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(NestedGemmTest, IntegerSumsAreExact) {
  // Scales are powers of two, zeros half integers and sums below 2^24: every fp32 operation is exact, so the output is
  // the integer dot product's own, and equal on all instruction sets.
  uint32_t seed = 100;
  for (const int64_t cols : {33, 128, 300}) {
    const RandomMatrix matrix(48, cols, 128, ++seed, /*exact=*/true);
    const NestedMatrix& w = matrix.view();
    for (const int64_t m : {1, 2, 5, 13}) {
      auto a = reference::QuantizeActivations(RandomFloats(m * cols, ++seed).data(), cols, m, cols, 128);
      std::fill(a.scales.begin(), a.scales.end(), 0.25F);
      for (const int bits : kPrecisions) {
        const auto expected = reference::NestedGemm(w, bits, a.view);
        const auto y = RunGemm(kernels(), w, bits, a.view, w.rows);
        for (size_t i = 0; i < y.size(); ++i) {
          ASSERT_EQ(static_cast<double>(y[i]), expected[i]) << "bits " << bits << " cols " << cols << " m " << m;
        }
      }
    }
  }
}

TEST_P(NestedGemmTest, ExtremeActivationsDoNotSaturate) {
  const int64_t cols = 256;
  RandomMatrix matrix(16, cols, 128, 7, /*exact=*/true);
  NestedMatrix w = matrix.view();
  const std::vector<uint8_t> ones(static_cast<size_t>(w.units() * 3 * kPlaneWordBytes), 0xFF);
  w.base3 = w.bit4 = w.bit5 = w.bit6 = w.bits78 = ones.data();
  for (const int value : {127, -127}) {
    const std::vector<int8_t> values(static_cast<size_t>(cols), static_cast<int8_t>(value));
    const std::vector<float> scales(2, 0.5F);
    const std::vector<int32_t> sums(2, 128 * value);
    const QuantizedActivations a{1, cols, 128, values.data(), scales.data(), sums.data()};
    for (const int bits : kPrecisions) {
      const auto expected = reference::NestedGemm(w, bits, a);
      const auto y = RunGemm(kernels(), w, bits, a, w.rows);
      for (size_t i = 0; i < y.size(); ++i) {
        ASSERT_EQ(static_cast<double>(y[i]), expected[i]) << "bits " << bits << " value " << value;
      }
    }
  }
}

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
