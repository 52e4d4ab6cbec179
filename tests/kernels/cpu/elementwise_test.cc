// What instruction sets share with no other backend: arrays of quantised activations, in-place work, reference weights.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/compare.h"
#include "tests/kernels/cpu/isa_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using testing::kEpsilon;
using testing::RandomFloats;

class CpuElementwiseTest : public testing::IsaTest {};

TEST_P(CpuElementwiseTest, QuantizesActivationsAsTheReference) {
  for (const int64_t group : {32, 64, 128}) {
    for (const int64_t cols : {1, 31, 33, 64, 172, 576}) {
      for (const int64_t m : {0, 1, 3}) {
        const int64_t ldx = cols + 5;
        auto x = RandomFloats(m * ldx + 1, static_cast<uint32_t>(cols + group));
        if (m == 3) {
          std::fill(x.begin() + ldx, x.begin() + ldx + cols, 0.0F);  // token 1: all-zero groups
        }
        for (const int64_t rows : {1, 2}) {
          const auto expected = reference::QuantizeActivations(x.data(), ldx, m, cols, group, rows);
          std::vector<int8_t> values(expected.values.size(), 99);
          std::vector<float> scales(expected.scales.size(), 99);
          std::vector<float> sums(expected.sums.size(), 99);
          kernels().quantize_activations(x.data(), ldx, m, cols, group, rows, values.data(), scales.data(), sums.data(),
                                         m);
          EXPECT_EQ(values, expected.values) << "cols " << cols << " group " << group << " m " << m << " rows " << rows;
          EXPECT_EQ(scales, expected.scales);
          EXPECT_EQ(sums, expected.sums);
        }
      }
    }
  }
}

TEST_P(CpuElementwiseTest, QuantizesTo15BitsAsTheReference) {
  for (const int64_t group : {32, 64, 128}) {
    for (const int64_t cols : {1, 31, 33, 64, 172, 576}) {
      const auto x = RandomFloats(cols, static_cast<uint32_t>(cols + group));
      const auto expected = reference::QuantizeActivations(x.data(), cols, 1, cols, group, 2);
      std::vector<int8_t> values(expected.values.size(), 99);
      std::vector<float> scales(expected.scales.size(), 99);
      std::vector<float> sums(expected.sums.size(), 99);
      kernels().quantize_activations(x.data(), cols, 1, cols, group, 2, values.data(), scales.data(), sums.data(), 1);
      EXPECT_EQ(values, expected.values) << "cols " << cols << " group " << group;
      EXPECT_EQ(scales, expected.scales);
      EXPECT_EQ(sums, expected.sums);
      // Both rows together are the value to half a fine step.
      const size_t stride = values.size() / 2;
      for (size_t k = 0; k < static_cast<size_t>(cols); ++k) {
        const size_t g = k / static_cast<size_t>(group);
        const auto fine = static_cast<double>(scales[g]);
        const double both = fine * (128 * values[k] + values[stride + k]);
        EXPECT_NEAR(both, static_cast<double>(x[k]), 0.5001 * fine);
      }
    }
  }
}

TEST_P(CpuElementwiseTest, QuantizesExtremesTo15Bits) {
  for (const float big : {std::numeric_limits<float>::max(), 2e-28F, 1e-35F, 1e-40F, 0.0F}) {
    const std::vector<float> x(9, -big);
    std::vector<int8_t> values(64, 99);
    std::vector<float> scales(1, 99);
    std::vector<float> sums(1, 99);
    kernels().quantize_activations(x.data(), 9, 1, 9, 32, 2, values.data(), scales.data(), sums.data(), 1);
    for (size_t i = 0; i < 9; ++i) {
      EXPECT_EQ(values[i], scales[0] > 0 ? -127 : 0) << big;
      EXPECT_LE(std::abs(values[32 + i]), 64) << big;
    }
    EXPECT_EQ(scales[0] > 0, big > 1e-28F);
    EXPECT_TRUE(std::isfinite(scales[0]));
  }
}

TEST_P(CpuElementwiseTest, QuantizesExtremes) {
  for (const float big : {std::numeric_limits<float>::max(), 2e-28F, 1e-40F, 1e-45F}) {
    const std::vector<float> x(9, -big);
    std::vector<int8_t> values(32);
    float scale = 0;
    float sum = 0;
    kernels().quantize_activations(x.data(), 9, 1, 9, 32, 1, values.data(), &scale, &sum, 1);
    for (size_t i = 0; i < 9; ++i) {
      EXPECT_EQ(values[i], scale > 0 ? -127 : 0) << big;
    }
  }
}

TEST_P(CpuElementwiseTest, RmsNormInPlace) {
  for (const int64_t n : {1, 7, 64, 576}) {
    const int64_t m = 3;
    auto x = RandomFloats(m * n, 3);
    const auto weight = RandomFloats(n, 4);
    std::vector<float> y(x.size());
    kernels().rms_norm(x.data(), n, weight.data(), m, n, 1e-5F, y.data(), n);
    kernels().rms_norm(x.data(), n, weight.data(), m, n, 1e-5F, x.data(), n);
    EXPECT_EQ(x, y);
  }
}

TEST_P(CpuElementwiseTest, ReferenceGemm) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    for (const int64_t cols : {1, 31, 33, 172, 576}) {
      for (const int64_t rows : {1, 5, 16, 19}) {
        const auto floats = RandomFloats(rows * cols, 10);
        std::vector<uint16_t> halves;
        for (const float x : floats) {
          uint32_t bits;
          std::memcpy(&bits, &x, sizeof(bits));
          halves.push_back(static_cast<uint16_t>(bits >> 16));
        }
        NestedMatrix w;
        w.rows = rows;
        w.cols = cols;
        w.reference_dtype = dtype;
        w.reference = dtype == Dtype::kF32 ? static_cast<const void*>(floats.data()) : halves.data();
        const int64_t m = 9;
        const int64_t ldx = cols + 3;
        const auto x = RandomFloats(m * ldx, 11);
        std::vector<float> y(static_cast<size_t>(m * rows));
        kernels().reference_gemm(w, x.data(), ldx, m, 0, rows, y.data(), rows);
        std::vector<double> magnitude;
        const auto expected = reference::ReferenceGemm(w, x.data(), ldx, m, &magnitude);
        for (size_t i = 0; i < y.size(); ++i) {
          ASSERT_NEAR(static_cast<double>(y[i]), expected[i], static_cast<double>(cols) * kEpsilon * magnitude[i])
              << "rows " << rows << " cols " << cols;
        }
        std::vector<float> one(static_cast<size_t>(rows));
        for (const int64_t t : {0, 4, 8}) {
          kernels().reference_gemm(w, x.data() + t * ldx, ldx, 1, 0, rows / 2, one.data(), rows);
          kernels().reference_gemm(w, x.data() + t * ldx, ldx, 1, rows / 2, rows, one.data(), rows);
          ASSERT_TRUE(std::equal(one.begin(), one.end(), y.begin() + t * rows)) << "token " << t;
        }
      }
    }
  }
}

FLEXQUANT_INSTANTIATE_ISA_TEST(CpuElementwiseTest);

TEST(IsaTest, NamesAndSupportAgree) {
  EXPECT_EQ(AllIsas().front(), Isa::kPortable);
  EXPECT_TRUE(IsaSupported(Isa::kPortable));
  EXPECT_TRUE(IsaSupported(BestIsa()));
  for (const Isa isa : AllIsas()) {
    EXPECT_EQ(ParseIsa(IsaName(isa)), isa);
    if (IsaSupported(isa)) {
      EXPECT_EQ(GetCpuKernels(isa).isa, isa);
    }
  }
  EXPECT_FALSE(ParseIsa("sse9").has_value());
}

}  // namespace
}  // namespace flexquant
