#include "common/store/nested_quantizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "common/half.h"
#include "common/precision.h"

namespace flexquant {
namespace {

using Draw = std::function<float(std::mt19937&)>;

std::vector<float> RandomWeights(int64_t count, const Draw& draw, uint32_t seed = 7) {
  std::mt19937 generator(seed);
  std::vector<float> weights(static_cast<size_t>(count));
  std::generate(weights.begin(), weights.end(), [&] { return draw(generator); });
  return weights;
}

float Gaussian(std::mt19937& generator) { return std::normal_distribution<float>(0.0F, 0.02F)(generator); }

float Laplace(std::mt19937& generator) {
  const float magnitude = std::exponential_distribution<float>(50.0F)(generator);
  return std::bernoulli_distribution()(generator) ? magnitude : -magnitude;
}

float Outliers(std::mt19937& generator) {
  const float value = Gaussian(generator);
  return std::bernoulli_distribution(0.01)(generator) ? 10 * value : value;
}

float OneSided(std::mt19937& generator) { return std::uniform_real_distribution<float>(0.5F, 1.0F)(generator); }

std::vector<float> Decode(const NestedMatrix& matrix, int bits) {
  std::vector<float> out(static_cast<size_t>(matrix.rows * matrix.cols));
  for (int64_t row = 0; row < matrix.rows; ++row) {
    DequantizeRow(
        matrix, row, bits,
        absl::MakeSpan(out).subspan(static_cast<size_t>(row * matrix.cols), static_cast<size_t>(matrix.cols)));
  }
  return out;
}

double RelativeError(const std::vector<float>& exact, const std::vector<float>& approximate) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    error += std::pow(static_cast<double>(approximate[i]) - static_cast<double>(exact[i]), 2);
    norm += std::pow(static_cast<double>(exact[i]), 2);
  }
  return std::sqrt(error / norm);
}

// Separate asymmetric round-to-nearest at one width: the rival of the nested format.
std::vector<float> RoundToNearest(const std::vector<float>& weights, int64_t cols, int64_t group_size, int bits) {
  std::vector<float> out(weights.size());
  for (size_t row = 0; row < weights.size(); row += static_cast<size_t>(cols)) {
    for (int64_t begin = 0; begin < cols; begin += group_size) {
      const auto first = weights.begin() + static_cast<std::ptrdiff_t>(row) + begin;
      const auto last = first + std::min(group_size, cols - begin);
      const auto [low, high] = std::minmax_element(first, last);
      const float step = (*high - *low) / static_cast<float>((1 << bits) - 1);
      for (auto it = first; it != last; ++it) {
        out[static_cast<size_t>(it - weights.begin())] = step > 0 ? *low + step * std::round((*it - *low) / step) : *it;
      }
    }
  }
  return out;
}

struct Case {
  const char* name;
  Draw draw;
  int64_t cols;
  int64_t group_size;
};

class ReconstructionTest : public ::testing::TestWithParam<Case> {};

TEST_P(ReconstructionTest, WithinFivePercentOfSeparateRoundToNearest) {
  const Case& test_case = GetParam();
  const int64_t rows = 64;
  const auto weights = RandomWeights(rows * test_case.cols, test_case.draw);
  const auto planes = QuantizeNested(weights, rows, test_case.cols, test_case.group_size);
  for (const int bits : kPrecisions) {
    const double nested = RelativeError(weights, Decode(planes.view(), bits));
    const double separate = RelativeError(weights, RoundToNearest(weights, test_case.cols, test_case.group_size, bits));
    std::printf("%-9s K %4ld group %3ld bits %d: nested %.5f separate %.5f ratio %.3f\n", test_case.name,
                static_cast<long>(test_case.cols), static_cast<long>(test_case.group_size), bits, nested, separate,
                nested / separate);
    EXPECT_LE(nested, 1.05 * separate) << bits << " bits";
  }
}

INSTANTIATE_TEST_SUITE_P(Distributions, ReconstructionTest,
                         ::testing::Values(Case{"gaussian", Gaussian, 31, 128}, Case{"gaussian", Gaussian, 32, 32},
                                           Case{"gaussian", Gaussian, 33, 32}, Case{"gaussian", Gaussian, 64, 128},
                                           Case{"gaussian", Gaussian, 172, 64}, Case{"gaussian", Gaussian, 576, 128},
                                           Case{"gaussian", Gaussian, 1000, 128}, Case{"gaussian", Gaussian, 1536, 64},
                                           Case{"gaussian", Gaussian, 1536, 32}, Case{"laplace", Laplace, 33, 128},
                                           Case{"laplace", Laplace, 576, 128}, Case{"laplace", Laplace, 1536, 64},
                                           Case{"outliers", Outliers, 172, 32}, Case{"outliers", Outliers, 576, 128},
                                           Case{"outliers", Outliers, 1536, 64}, Case{"one-sided", OneSided, 576, 128},
                                           Case{"one-sided", OneSided, 1000, 32}));

// Plain decoding from the header's words: which plane, word and bit each code bit lies in.
unsigned CodeFromDefinition(const NestedMatrix& m, int64_t row, int64_t col) {
  const int64_t unit = row / 16 * m.units() + col / 32;
  const int r = static_cast<int>(col % 32 / 4);
  const int64_t byte = 4 * (row % 16) + col % 4;
  const auto base = [&](int word) { return static_cast<unsigned>(m.base3[(unit * 3 + word) * 64 + byte]); };
  unsigned top = 0;
  switch (r) {
    case 0:
    case 2:
    case 4:
      top = base(r / 2) >> 5;
      break;
    case 1:
    case 3:
    case 5:
      top = (base(r / 2) >> 2) & 7;
      break;
    case 6:
      top = (base(0) & 3) << 1 | ((base(2) >> 1) & 1);
      break;
    default:
      top = (base(1) & 3) << 1 | (base(2) & 1);
  }
  const auto bit = [&](const uint8_t* plane) { return static_cast<unsigned>(plane[unit * 64 + byte] >> r) & 1; };
  const unsigned low = static_cast<unsigned>(m.bits78[(unit * 2 + r / 4) * 64 + byte] >> (2 * (r % 4))) & 3;
  return top << 5 | bit(m.bit4) << 4 | bit(m.bit5) << 3 | bit(m.bit6) << 2 | low;
}

class ShapeTest : public ::testing::TestWithParam<std::pair<int64_t, int64_t>> {};

TEST_P(ShapeTest, CodesAreTheRoundedWeights) {
  const auto [rows, cols] = GetParam();
  const auto weights = RandomWeights(rows * cols, Gaussian);
  const auto planes = QuantizeNested(weights, rows, cols, 64, /*num_threads=*/3);
  const NestedMatrix m = planes.view();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      const uint16_t* scales = m.scales + (row / 16 * m.groups() + col / 64) * 32;
      const float scale = HalfToFloat(scales[row % 16]);
      const float zero = HalfToFloat(scales[16 + row % 16]);
      const float exact = weights[static_cast<size_t>(row * cols + col)] / scale + zero;
      // Half a step, and a step more at the ends of the range, which fp16 scales may leave just outside.
      ASSERT_NEAR(static_cast<float>(CodeFromDefinition(m, row, col)), exact, 0.75F) << row << ", " << col;
    }
  }
}

TEST_P(ShapeTest, LowerPrecisionsKeepLeadingBitsAndAddTheMidPoint) {
  const auto [rows, cols] = GetParam();
  const auto planes = QuantizeNested(RandomWeights(rows * cols, Laplace), rows, cols, 128);
  const NestedMatrix m = planes.view();
  for (const int bits : kPrecisions) {
    const auto decoded = Decode(m, bits);
    const unsigned dropped = (1U << (8 - bits)) - 1;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = 0; col < cols; ++col) {
        const uint16_t* scales = m.scales + (row / 16 * m.groups() + col / 128) * 32;
        const float u = static_cast<float>(CodeFromDefinition(m, row, col) & ~dropped);
        const float expected =
            HalfToFloat(scales[row % 16]) * (u + static_cast<float>(dropped) / 2 - HalfToFloat(scales[16 + row % 16]));
        ASSERT_EQ(decoded[static_cast<size_t>(row * cols + col)], expected) << row << ", " << col << ", " << bits;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ShapeTest,
                         ::testing::Values(std::pair<int64_t, int64_t>{1, 1}, std::pair<int64_t, int64_t>{15, 31},
                                           std::pair<int64_t, int64_t>{16, 32}, std::pair<int64_t, int64_t>{17, 33},
                                           std::pair<int64_t, int64_t>{40, 64}, std::pair<int64_t, int64_t>{33, 172},
                                           std::pair<int64_t, int64_t>{20, 576}));

TEST(NestedQuantizerTest, TruncationHasNoBias) {
  const int64_t rows = 64;
  const int64_t cols = 1024;
  const auto weights = RandomWeights(rows * cols, Gaussian);
  const auto planes = QuantizeNested(weights, rows, cols, 128);
  double scale_sum = 0;
  for (const float w : weights) {
    scale_sum += std::abs(static_cast<double>(w));
  }
  for (const int bits : kPrecisions) {
    const auto decoded = Decode(planes.view(), bits);
    double bias = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      bias += static_cast<double>(decoded[i]) - static_cast<double>(weights[i]);
    }
    // Dropping planes without the mid-point would give about -0.2 at 3 bits.
    EXPECT_LT(std::abs(bias) / scale_sum, 0.01) << bits;
  }
}

TEST(NestedQuantizerTest, DegenerateGroupsStayFinite) {
  for (const float value : {0.0F, 1.0F, -3.0F, 1e-30F, -1e-38F, 6e4F, 1e-7F}) {
    const std::vector<float> weights(128, value);
    const auto planes = QuantizeNested(weights, 1, 128, 128);
    for (const int bits : kPrecisions) {
      for (const float decoded : Decode(planes.view(), bits)) {
        ASSERT_TRUE(std::isfinite(decoded)) << value << " at " << bits;
        // At worst half a step of the width; values below fp16's reach become zero.
        const float step = std::abs(value) / static_cast<float>((1 << bits) - 1);
        ASSERT_NEAR(decoded, value, step + 1e-5F) << bits;
      }
    }
  }
}

TEST(NestedQuantizerTest, PaddingDoesNotChangeValues) {
  // One row among zero rows, a tail group of one column: what lies around must not touch scales.
  std::vector<float> weights(3 * 65, 0.0F);
  weights[65 + 64] = 0.5F;
  const auto planes = QuantizeNested(weights, 3, 65, 64);
  const auto decoded = Decode(planes.view(), 8);
  EXPECT_NEAR(decoded[65 + 64], 0.5F, 1e-3F);
  EXPECT_EQ(decoded[65 + 63], 0.0F);
}

TEST(NestedQuantizerTest, PaddedRowsAndColumnsAreZero) {
  const int64_t rows = 17;
  const int64_t cols = 33;
  const auto planes = QuantizeNested(RandomWeights(rows * cols, OneSided), rows, cols, 32);
  const NestedMatrix m = planes.view();
  for (int64_t row = 0; row < m.tiles() * 16; ++row) {
    for (int64_t col = 0; col < m.units() * 32; ++col) {
      if (row >= rows || col >= cols) {
        ASSERT_EQ(CodeFromDefinition(m, row, col), 0U) << row << ", " << col;
      }
    }
    for (int64_t group = 0; group < m.groups() && row >= rows; ++group) {
      const uint16_t* scales = m.scales + (row / 16 * m.groups() + group) * 32;
      ASSERT_EQ(scales[row % 16], 0) << row;
      ASSERT_EQ(scales[16 + row % 16], 0) << row;
    }
  }
}

TEST(NestedQuantizerTest, ThreadsDoNotChangeTheResult) {
  const auto weights = RandomWeights(100 * 96, Gaussian);
  const auto one = QuantizeNested(weights, 100, 96, 32, 1);
  const auto four = QuantizeNested(weights, 100, 96, 32, 4);
  EXPECT_EQ(one.base3, four.base3);
  EXPECT_EQ(one.bits78, four.bits78);
  EXPECT_EQ(one.scales, four.scales);
}

}  // namespace
}  // namespace flexquant
