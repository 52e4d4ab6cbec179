#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/isa_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using testing::RandomFloats;

constexpr double kEpsilon = static_cast<double>(std::numeric_limits<float>::epsilon());

class ElementwiseTest : public testing::IsaTest {};

TEST_P(ElementwiseTest, QuantizesActivationsAsTheReference) {
  for (const int64_t group : {32, 64, 128}) {
    for (const int64_t cols : {1, 31, 33, 64, 172, 576}) {
      for (const int64_t m : {0, 1, 3}) {
        const int64_t ldx = cols + 5;
        auto x = RandomFloats(m * ldx + 1, static_cast<uint32_t>(cols + group));
        if (m == 3) {
          std::fill(x.begin() + ldx, x.begin() + ldx + cols, 0.0F);  // token 1: all-zero groups
        }
        const auto expected = reference::QuantizeActivations(x.data(), ldx, m, cols, group);
        std::vector<int8_t> values(expected.values.size(), 99);
        std::vector<float> scales(expected.scales.size(), 99);
        std::vector<int32_t> sums(expected.sums.size(), 99);
        kernels().quantize_activations(x.data(), ldx, m, cols, group, values.data(), scales.data(), sums.data());
        EXPECT_EQ(values, expected.values) << "cols " << cols << " group " << group << " m " << m;
        EXPECT_EQ(scales, expected.scales);
        EXPECT_EQ(sums, expected.sums);
      }
    }
  }
}

TEST_P(ElementwiseTest, QuantizesTo15BitsAsTheReference) {
  for (const int64_t group : {32, 64, 128}) {
    for (const int64_t cols : {1, 31, 33, 64, 172, 576}) {
      const auto x = RandomFloats(cols, static_cast<uint32_t>(cols + group));
      const auto expected = reference::QuantizeActivations15(x.data(), cols, group);
      std::vector<int8_t> values(expected.values.size(), 99);
      std::vector<float> scales(expected.scales.size(), 99);
      std::vector<int32_t> sums(expected.sums.size(), 99);
      kernels().quantize_activations_15(x.data(), cols, group, values.data(), scales.data(), sums.data());
      EXPECT_EQ(values, expected.values) << "cols " << cols << " group " << group;
      EXPECT_EQ(scales, expected.scales);
      EXPECT_EQ(sums, expected.sums);
      // Both rows together are the value to half a fine step.
      const size_t padded = values.size() / 2;
      for (size_t k = 0; k < static_cast<size_t>(cols); ++k) {
        const size_t g = k / static_cast<size_t>(group);
        const double fine = static_cast<double>(scales[scales.size() / 2 + g]);
        const double both = static_cast<double>(scales[g]) * values[k] + fine * values[padded + k];
        EXPECT_NEAR(both, static_cast<double>(x[k]), 0.5001 * fine);
      }
    }
  }
}

TEST_P(ElementwiseTest, QuantizesExtremesTo15Bits) {
  for (const float big : {std::numeric_limits<float>::max(), 1e-35F, 1e-40F, 0.0F}) {
    const std::vector<float> x(9, -big);
    std::vector<int8_t> values(64, 99);
    std::vector<float> scales(2, 99);
    std::vector<int32_t> sums(2, 99);
    kernels().quantize_activations_15(x.data(), 9, 32, values.data(), scales.data(), sums.data());
    for (size_t i = 0; i < 9; ++i) {
      EXPECT_EQ(values[i], big > 0 ? -127 : 0) << big;
      EXPECT_LE(std::abs(values[32 + i]), 64) << big;
    }
    EXPECT_TRUE(std::isfinite(scales[1]));
  }
}

TEST_P(ElementwiseTest, QuantizesTiesToEvenAndExtremes) {
  // Largest 127, so the step is 1.
  std::vector<float> x = {127, 0.5F, 1.5F, 2.5F, -0.5F, -1.5F, -2.5F, -127, 126.5F};
  std::vector<int8_t> values(32);
  float scale = 0;
  int32_t sum = 0;
  kernels().quantize_activations(x.data(), 9, 1, 9, 32, values.data(), &scale, &sum);
  EXPECT_EQ(scale, 1.0F);
  EXPECT_EQ(std::vector<int>(values.begin(), values.begin() + 9),
            (std::vector<int>{127, 0, 2, 2, 0, -2, -2, -127, 126}));
  EXPECT_EQ(sum, 126);
  for (const float big : {std::numeric_limits<float>::max(), 1e-40F, 1e-45F}) {
    x.assign(9, -big);
    kernels().quantize_activations(x.data(), 9, 1, 9, 32, values.data(), &scale, &sum);
    for (int i = 0; i < 9; ++i) {
      EXPECT_EQ(values[static_cast<size_t>(i)], scale > 0 ? -127 : 0) << big;
    }
  }
}

TEST_P(ElementwiseTest, RmsNorm) {
  for (const int64_t n : {1, 7, 16, 31, 64, 576}) {
    const int64_t m = 3;
    const auto x = RandomFloats(m * (n + 2), 3);
    const auto weight = RandomFloats(n, 4);
    std::vector<float> y(static_cast<size_t>(m * (n + 1)), -7.0F);
    kernels().rms_norm(x.data(), n + 2, weight.data(), m, n, 1e-5F, y.data(), n + 1);
    for (int64_t t = 0; t < m; ++t) {
      const auto expected = reference::RmsNorm(x.data() + t * (n + 2), weight.data(), n, static_cast<double>(1e-5F));
      for (int64_t i = 0; i < n; ++i) {
        const double want = expected[static_cast<size_t>(i)];
        EXPECT_NEAR(static_cast<double>(y[static_cast<size_t>(t * (n + 1) + i)]), want,
                    static_cast<double>(n + 8) * kEpsilon * std::fabs(want));
      }
      EXPECT_EQ(y[static_cast<size_t>(t * (n + 1) + n)], -7.0F);
    }
    auto in_place = x;
    kernels().rms_norm(in_place.data(), n + 2, weight.data(), m, n, 1e-5F, in_place.data(), n + 2);
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_EQ(in_place[static_cast<size_t>(i)], y[static_cast<size_t>(i)]);
    }
  }
}

TEST_P(ElementwiseTest, Rope) {
  for (const int64_t head_dim : {2, 6, 32, 64, 100, 256}) {
    const int64_t heads = 3;
    const auto x = RandomFloats(heads * head_dim, 5);
    std::vector<float> cos;
    std::vector<float> sin;
    for (int64_t i = 0; i < head_dim / 2; ++i) {
      cos.push_back(std::cos(0.3F * static_cast<float>(i)));
      sin.push_back(std::sin(0.3F * static_cast<float>(i)));
    }
    auto y = x;
    y.push_back(42.0F);
    kernels().rope(y.data(), heads, head_dim, cos.data(), sin.data());
    const auto expected = reference::Rope(x.data(), heads, head_dim, cos.data(), sin.data());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(static_cast<double>(y[i]), expected[i], 8 * kEpsilon) << head_dim;
    }
    EXPECT_EQ(y.back(), 42.0F);
  }
}

TEST_P(ElementwiseTest, SiluMulHoldsFromTinyToHuge) {
  std::vector<float> gate;
  for (int i = -1000; i <= 1000; ++i) {
    gate.push_back(static_cast<float>(i) * 0.1F);
  }
  for (const float x : {-1e30F, -1e4F, 1e4F, 1e30F, 0.0F, 1e-30F, -1e-30F}) {
    gate.push_back(x);
  }
  const auto n = static_cast<int64_t>(gate.size());
  const std::vector<float> up = RandomFloats(n, 6);
  std::vector<float> out(gate.size() + 1, 42.0F);
  kernels().silu_mul(gate.data(), up.data(), n, out.data());
  const auto expected = reference::SiluMul(gate.data(), up.data(), n);
  for (size_t i = 0; i < expected.size(); ++i) {
    // e^88 stands for everything above; what that leaves of x / (1 + e^88) is below 1e-36 |x|.
    const double tolerance = 4e-7 * std::fabs(expected[i]) + 1e-36 * std::fabs(static_cast<double>(gate[i]));
    EXPECT_NEAR(static_cast<double>(out[i]), expected[i], tolerance * (1 + std::fabs(static_cast<double>(up[i]))))
        << gate[i];
  }
  EXPECT_EQ(out.back(), 42.0F);
}

// Far below 0, silu(x) is x e^x to within e^x.
TEST_P(ElementwiseTest, ExponentialIsAccurate) {
  for (double x = -86.0; x < -17.0; x += 0.0137) {
    const float gate = static_cast<float>(x);
    const float one = 1.0F;
    float out = 0;
    kernels().silu_mul(&gate, &one, 1, &out);
    const double exact = static_cast<double>(gate) / (1 + std::exp(-static_cast<double>(gate)));
    ASSERT_NEAR(static_cast<double>(out) / exact, 1.0, 1e-6) << x;
  }
}

TEST_P(ElementwiseTest, Add) {
  for (const int64_t n : {0, 1, 15, 16, 17, 576}) {
    auto x = RandomFloats(n + 1, 7);
    const auto before = x;
    const auto y = RandomFloats(n + 1, 8);
    kernels().add(x.data(), y.data(), n);
    for (int64_t i = 0; i <= n; ++i) {
      const auto at = static_cast<size_t>(i);
      EXPECT_EQ(x[at], i < n ? before[at] + y[at] : before[at]);
    }
  }
}

TEST_P(ElementwiseTest, StoresHalvesRoundedToNearestEven) {
  for (const int64_t head_dim : {2, 30, 64}) {
    const int64_t heads = 3;
    auto src = RandomFloats(heads * head_dim, 9);
    src[0] = 1.0F + 0x1p-11F;    // a tie, down to even
    src[1] = 1.0F + 0x1.8p-10F;  // a tie, up to even
    src[2] = 0x1p-25F;           // half of the smallest subnormal: a tie, to zero
    src[3] = -0x1.8p-24F;        // a tie among subnormals
    src[4] = 65504.0F;
    src[5] = -0x1.fffp-15F;  // the largest subnormal rounds up to the smallest normal
    const int64_t stride = head_dim + 7;
    std::vector<uint16_t> dst(static_cast<size_t>(heads * stride), 0xABCD);
    kernels().store_kv(src.data(), heads, head_dim, dst.data(), stride);
    for (int64_t i = 0; i < heads * stride; ++i) {
      const int64_t d = i % stride;
      const uint16_t expected =
          d < head_dim
              ? reference::DoubleToHalf(static_cast<double>(src[static_cast<size_t>(i / stride * head_dim + d)]))
              : 0xABCD;
      ASSERT_EQ(dst[static_cast<size_t>(i)], expected) << "head_dim " << head_dim << " at " << i;
    }
  }
}

TEST_P(ElementwiseTest, ReferenceGemm) {
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

FLEXQUANT_INSTANTIATE_ISA_TEST(ElementwiseTest);

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
