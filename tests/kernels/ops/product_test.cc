// Products with nested matrices as decoding makes them: activations become int8 (or 15 bits), sums are exact integers.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "common/precision.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/compare.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using testing::Bits;
using testing::kEpsilon;
using testing::ProductInput;
using testing::RandomFloats;
using testing::RandomMatrix;
using testing::RowsOf;

// Outputs of one row and the sizes of what was added up.
struct Expected {
  std::vector<double> values;
  std::vector<double> magnitudes;
};

Expected ProductOf(const NestedMatrix& w, int bits, const float* x, bool fine) {
  const auto a = reference::QuantizeActivations(x, w.cols, 1, w.cols, w.group_size, fine ? 2 : 1);
  Expected expected;
  expected.values = reference::NestedGemm(w, bits, a.view, &expected.magnitudes);
  return expected;
}

// One rounding each for scale, correction, product and sum, for every run of columns that is added up exactly.
void ExpectNear(const NestedMatrix& w, const float* got, const Expected& expected) {
  const auto runs = static_cast<double>(CeilDiv(w.cols, std::min<int64_t>(w.group_size, 64)));
  for (size_t n = 0; n < expected.values.size(); ++n) {
    ASSERT_NEAR(static_cast<double>(got[n]), expected.values[n], 4 * (runs + 1) * kEpsilon * expected.magnitudes[n])
        << "output " << n;
  }
}

ProductInput Rows(std::vector<float> x, int64_t ldx, std::vector<int> widths, bool fine = false) {
  return {std::move(x), ldx, std::move(widths), fine};
}

ProductInput Uniform(std::vector<float> x, int64_t ldx, int64_t m, int bits, bool fine = false) {
  return Rows(std::move(x), ldx, std::vector<int>(static_cast<size_t>(m), bits), fine);
}

class ProductTest : public testing::BackendTest {};

TEST_P(ProductTest, EveryShapeAndWidth) {
  uint32_t seed = 1;
  for (const int64_t group : backend().group_sizes()) {
    for (const int64_t cols : {1, 31, 33, 64, 172, 576}) {
      for (const int64_t rows : {1, 15, 16, 17, 100}) {
        const RandomMatrix matrix(rows, cols, group, ++seed);
        const int64_t ldx = cols + rows % 2 * 5;
        for (const int64_t m : {0, 1, 3, 17}) {
          const auto x = RandomFloats(m * ldx, ++seed);
          for (const int bits : kPrecisions) {
            SCOPED_TRACE(::testing::Message() << rows << " x " << cols << ", groups of " << group << ", " << bits
                                              << " bits, " << m << " rows");
            const auto y = backend().Product(matrix.view(), Uniform(x, ldx, m, bits));
            ASSERT_EQ(y.size(), static_cast<size_t>(m * rows));
            for (int64_t t = 0; t < m; ++t) {
              ExpectNear(matrix.view(), y.data() + t * rows, ProductOf(matrix.view(), bits, x.data() + t * ldx, false));
            }
          }
        }
      }
    }
  }
}

struct Shape {
  int64_t rows;
  int64_t cols;
  int64_t group;
};

// Rows 64 - m .. 63 are a batch of m.
TEST_P(ProductTest, BatchesOf1To64) {
  constexpr int64_t kRows = 64;
  uint32_t seed = 1000;
  for (const Shape& shape : {Shape{1, 32, 64}, Shape{15, 64, 64}, Shape{16, 172, 64}, Shape{17, 576, 64},
                             Shape{40, 1536, 64}, Shape{33, 300, 128}, Shape{17, 4096, 128}, Shape{16, 14336, 64}}) {
    const RandomMatrix matrix(shape.rows, shape.cols, shape.group, ++seed);
    const NestedMatrix& w = matrix.view();
    const auto x = RandomFloats(kRows * shape.cols, ++seed);
    for (const int bits : kPrecisions) {
      const auto whole = backend().Product(w, Uniform(x, shape.cols, kRows, bits));
      for (const int64_t t : {0, 33, 63}) {
        ExpectNear(w, whole.data() + t * shape.rows, ProductOf(w, bits, x.data() + t * shape.cols, false));
      }
      for (const int64_t m : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 63}) {
        const auto y = backend().Product(w, Uniform(RowsOf(x, shape.cols, kRows - m, m), shape.cols, m, bits));
        ASSERT_EQ(Bits(y), Bits(RowsOf(whole, shape.rows, kRows - m, m)))
            << shape.rows << " x " << shape.cols << ", " << bits << " bits: a row of a batch of " << m
            << " is not what it is in a batch of 64";
      }
    }
  }
}

TEST_P(ProductTest, ManyTiles) {
  uint32_t seed = 3000;
  for (const Shape& shape : {Shape{2500, 1024, 64}, Shape{1250, 2340, 64}, Shape{33, 3000, 128}}) {
    const RandomMatrix matrix(shape.rows, shape.cols, shape.group, ++seed);
    for (const int64_t m : {1, 5, 40}) {
      const auto x = RandomFloats(m * shape.cols, ++seed);
      for (const int bits : {3, 8}) {
        SCOPED_TRACE(::testing::Message() << shape.rows << " x " << shape.cols << ", " << bits << " bits, " << m);
        const auto y = backend().Product(matrix.view(), Uniform(x, shape.cols, m, bits));
        const float* last = x.data() + (m - 1) * shape.cols;
        ExpectNear(matrix.view(), y.data() + (m - 1) * shape.rows, ProductOf(matrix.view(), bits, last, false));
      }
    }
  }
}

TEST_P(ProductTest, NeighboursOfOtherWidthsDoNotMatter) {
  std::mt19937 random(3);
  for (const Shape& shape : {Shape{17, 576, 64}, Shape{33, 300, 128}, Shape{40, 2340, 64}}) {
    const RandomMatrix matrix(shape.rows, shape.cols, shape.group, random());
    const auto x = RandomFloats(64 * shape.cols, random());
    for (const bool fine : {false, true}) {
      std::vector<std::vector<float>> alone(9);
      for (const int bits : kPrecisions) {
        alone[static_cast<size_t>(bits)] = backend().Product(matrix.view(), Uniform(x, shape.cols, 64, bits, fine));
      }
      for (const int64_t m : {2, 3, 5, 8, 13, 16, 17, 32, 40, 64}) {
        std::vector<int> widths(static_cast<size_t>(m));
        const int most = m % 2 == 0 ? 5 : 2;  // also mixes of 3 and 4 alone
        for (int& width : widths) {
          width = kPrecisions[random() % static_cast<unsigned>(most)];
        }
        const auto y = backend().Product(matrix.view(), Rows(RowsOf(x, shape.cols, 0, m), shape.cols, widths, fine));
        for (int64_t t = 0; t < m; ++t) {
          const auto bits = static_cast<size_t>(widths[static_cast<size_t>(t)]);
          ASSERT_EQ(Bits(RowsOf(y, shape.rows, t, 1)), Bits(RowsOf(alone[bits], shape.rows, t, 1)))
              << shape.rows << " x " << shape.cols << ", batch " << m << " row " << t << " of " << bits << " bits";
        }
      }
    }
  }
}

TEST_P(ProductTest, FifteenBitActivations) {
  uint32_t seed = 2000;
  for (const Shape& shape : {Shape{40, 576, 64}, Shape{17, 33, 64}, Shape{17, 4096, 128}, Shape{5, 172, 128}}) {
    const RandomMatrix matrix(shape.rows, shape.cols, shape.group, ++seed);
    for (const int64_t m : {0, 1, 3, 8, 16, 40}) {
      const auto x = RandomFloats(m * shape.cols, ++seed);
      for (const int bits : kPrecisions) {
        SCOPED_TRACE(::testing::Message() << shape.rows << " x " << shape.cols << ", " << bits << " bits, " << m);
        const auto y = backend().Product(matrix.view(), Uniform(x, shape.cols, m, bits, /*fine=*/true));
        for (int64_t t = 0; t < m; t += 7) {
          ExpectNear(matrix.view(), y.data() + t * shape.rows,
                     ProductOf(matrix.view(), bits, x.data() + t * shape.cols, true));
        }
      }
    }
  }
}

// Scales are powers of two, zeros half integers, and all that is added up for an output stays below 2^24 of the
// smallest step: every fp32 operation is exact, so the output is the integer dot product's own.
TEST_P(ProductTest, IntegerSumsAreExact) {
  constexpr double kStep = 0x1p-6;  // smallest scales of weights 2^-3 and activations 2^-2, half integers
  uint32_t seed = 100;
  for (const int64_t cols : {33, 128, 300}) {
    const RandomMatrix matrix(48, cols, 128, ++seed, /*exact=*/true);
    for (const int64_t m : {1, 2, 5, 13}) {
      auto x = RandomFloats(m * cols, ++seed, 10.0F);
      for (int64_t i = 0; i < m * cols; ++i) {
        // Multiples of the activations' scale, the largest of every group 127 of them.
        float& value = x[static_cast<size_t>(i)];
        value = i % cols % 128 == 0 ? 127 * 0.25F : 0.25F * std::clamp(std::nearbyint(value), -126.0F, 126.0F);
      }
      for (const int bits : kPrecisions) {
        const auto y = backend().Product(matrix.view(), Uniform(x, cols, m, bits));
        for (int64_t t = 0; t < m; ++t) {
          const auto expected = ProductOf(matrix.view(), bits, x.data() + t * cols, false);
          for (size_t n = 0; n < expected.values.size(); ++n) {
            ASSERT_LT(expected.magnitudes[n], 0x1p24 * kStep);
            ASSERT_EQ(static_cast<double>(y[static_cast<size_t>(t * 48) + n]), expected.values[n])
                << bits << " bits, " << cols << " columns, row " << t << " of " << m << ", output " << n;
          }
        }
      }
    }
  }
}

TEST_P(ProductTest, LargestSumsDoNotOverflow) {
  const int64_t cols = 1024;
  const RandomMatrix matrix(16, cols, 128, 7, /*exact=*/true);
  NestedMatrix w = matrix.view();
  const std::vector<uint8_t> ones(static_cast<size_t>(w.units() * 3 * kPlaneWordBytes), 0xFF);
  w.base3 = w.bit4 = w.bit5 = w.bit6 = w.bits78 = ones.data();
  for (const float value : {0.25F, -0.25F}) {
    for (const int64_t m : {1, 5}) {
      const std::vector<float> x(static_cast<size_t>(m * cols), value);
      for (const int bits : kPrecisions) {
        SCOPED_TRACE(::testing::Message() << bits << " bits, value " << value);
        const auto y = backend().Product(w, Uniform(x, cols, m, bits));
        for (int64_t t = 0; t < m; ++t) {
          ExpectNear(w, y.data() + t * 16, ProductOf(w, bits, x.data(), false));
        }
      }
    }
  }
}

// Weights of the identity matrix give the activations back as they were quantised.
class QuantizedActivationsTest : public testing::BackendTest {
 protected:
  // `x` [m, ldx]. A group of numbers below 1e-20 may count as zeros.
  void ExpectQuantized(const std::vector<float>& x, int64_t ldx, int64_t m, int64_t cols, int64_t group, bool fine) {
    const testing::IdentityMatrix identity(cols, group);
    const auto y = backend().Product(identity.view(), Uniform(x, ldx, m, kTopPrecision, fine));
    const int64_t stride = ActivationStride(cols);
    for (int64_t t = 0; t < m; ++t) {
      const float* row = x.data() + t * ldx;
      const auto a = reference::QuantizeActivations(row, ldx, 1, cols, group, fine ? 2 : 1);
      for (int64_t k = 0; k < cols; ++k) {
        const auto value = [&](int64_t at) { return a.values[static_cast<size_t>(at * stride + k)]; };
        const double want = static_cast<double>(a.scales[static_cast<size_t>(k / group)]) *
                            (fine ? 128 * value(0) + value(1) : value(0));
        ASSERT_NEAR(static_cast<double>(y[static_cast<size_t>(t * cols + k)]), want,
                    2 * kEpsilon * std::fabs(want) + 1e-20)
            << "row " << t << " column " << k << " of " << cols << ", groups of " << group << ", fine " << fine;
      }
    }
  }
};

TEST_P(QuantizedActivationsTest, MatchTheReference) {
  for (const int64_t group : backend().group_sizes()) {
    for (const int64_t cols : {1, 31, 33, 64, 172, 576}) {
      for (const int64_t m : {1, 3}) {
        for (const int64_t padding : {0, 5}) {
          const int64_t ldx = cols + padding;
          auto x = RandomFloats(m * ldx, static_cast<uint32_t>(cols + group));
          if (m == 3) {
            std::fill(x.begin() + ldx, x.begin() + ldx + cols, 0.0F);
          }
          ExpectQuantized(x, ldx, m, cols, group, false);
          ExpectQuantized(x, ldx, m, cols, group, true);
        }
      }
    }
  }
}

TEST_P(QuantizedActivationsTest, TiesGoToEven) {
  // Largest 127, so the step is 1.
  const std::vector<float> x = {127, 0.5F, 1.5F, 2.5F, -0.5F, -1.5F, -2.5F, -127, 126.5F};
  const auto y = backend().Product(testing::IdentityMatrix(9, 64).view(), Uniform(x, 9, 1, kTopPrecision));
  EXPECT_EQ(y, (std::vector<float>{127, 0, 2, 2, 0, -2, -2, -127, 126}));
}

TEST_P(QuantizedActivationsTest, Extremes) {
  for (const float size : {1e38F, 1e-15F, 1e-35F, 1e-40F, 0.0F}) {
    std::vector<float> x = RandomFloats(70, 4);
    for (float& value : x) {
      value *= size / 4;
    }
    ExpectQuantized(x, 70, 1, 70, 64, false);
    ExpectQuantized(x, 70, 1, 70, 64, true);
    ExpectQuantized(std::vector<float>(9, -size), 9, 1, 9, 64, false);
  }
}

FLEXQUANT_INSTANTIATE_BACKEND_TEST(ProductTest, /*for_products=*/true);
FLEXQUANT_INSTANTIATE_BACKEND_TEST(QuantizedActivationsTest, /*for_products=*/true);

}  // namespace
}  // namespace flexquant
