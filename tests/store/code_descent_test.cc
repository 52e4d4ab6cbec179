// Codes that move: what they are to make small, checked against plain sums in fp64.

#include "common/store/code_descent.h"

#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "common/store/group_fit.h"
#include "common/store/nested_quantizer.h"
#include "gtest/gtest.h"

namespace flexquant {
namespace {

// Inputs that have a mean and two directions in common, as activations do.
std::vector<float> Inputs(int64_t tokens, int64_t cols, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> directions(3, std::vector<float>(static_cast<size_t>(cols)));
  for (auto& direction : directions) {
    for (float& x : direction) {
      x = normal(generator);
    }
  }
  std::vector<float> inputs;
  for (int64_t t = 0; t < tokens; ++t) {
    const float a = normal(generator);
    const float b = normal(generator);
    for (size_t k = 0; k < static_cast<size_t>(cols); ++k) {
      inputs.push_back(directions[0][k] + a * directions[1][k] + b * directions[2][k] + normal(generator));
    }
  }
  return inputs;
}

InputMoments MomentsOf(const std::vector<float>& inputs, int64_t cols) {
  InputMoments moments(cols);
  const auto tokens = static_cast<int64_t>(inputs.size()) / cols;
  for (int64_t block = 0; block < moments.num_blocks(); ++block) {
    for (int64_t j = 0; j < moments.size(block); ++j) {
      for (int64_t k = 0; k < moments.size(block); ++k) {
        double sum = 0;
        for (int64_t t = 0; t < tokens; ++t) {
          const float* x = inputs.data() + t * cols + moments.begin(block);
          sum += static_cast<double>(x[j]) * static_cast<double>(x[k]);
        }
        moments.row(block, j)[k] = static_cast<float>(sum / static_cast<double>(tokens));
      }
    }
  }
  return moments;
}

struct Row {
  std::vector<float> positions;
  std::vector<float> scales;
  std::vector<uint8_t> codes;
};

Row RandomRow(int64_t cols, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(0, 255);
  Row row;
  for (int64_t k = 0; k < cols; ++k) {
    row.positions.push_back(uniform(generator));
    row.scales.push_back(0.01F * static_cast<float>(1 + k / 64 % 3));
    row.codes.push_back(static_cast<uint8_t>(CodeAt(row.positions.back())));
  }
  return row;
}

// Mean square error of the row's product over `inputs`, at each width.
std::array<double, 5> ProductErrors(const Row& row, const std::vector<float>& inputs) {
  std::array<double, 5> errors{};
  const size_t cols = row.codes.size();
  const size_t tokens = inputs.size() / cols;
  for (size_t b = 0; b < errors.size(); ++b) {
    for (size_t t = 0; t < tokens; ++t) {
      double error = 0;
      for (size_t k = 0; k < cols; ++k) {
        const float code = static_cast<float>(row.codes[k] & kNestedWidths[b].mask) + kNestedWidths[b].mid;
        error +=
            static_cast<double>(row.scales[k] * (code - row.positions[k])) * static_cast<double>(inputs[t * cols + k]);
      }
      errors[b] += error * error / static_cast<double>(tokens);
    }
  }
  return errors;
}

TEST(CodeDescentTest, LowersTheErrorsOfProducts) {
  // At 3 bits few codes lie beside the edge of a cell; at 8 bits a step of one code is a whole step.
  constexpr std::array<double, 5> kMost = {0.9, 0.65, 0.65, 0.65, 1.1};
  for (const int64_t cols : {64, 200, 576}) {
    const auto inputs = Inputs(2000, cols, 1);
    const InputMoments moments = MomentsOf(inputs, cols);
    CodeDescent descent(moments);
    std::array<double, 5> before{};
    std::array<double, 5> after{};
    for (uint32_t seed = 0; seed < 20; ++seed) {
      Row row = RandomRow(cols, 100 + seed);
      const auto add = [&](std::array<double, 5>& sums) {
        const auto errors = ProductErrors(row, inputs);
        for (size_t b = 0; b < sums.size(); ++b) {
          sums[b] += errors[b];
        }
      };
      add(before);
      descent.Refine(row.positions, row.scales, absl::MakeSpan(row.codes));
      add(after);
      for (size_t k = 0; k < row.codes.size(); ++k) {
        ASSERT_LE(std::fabs(static_cast<float>(row.codes[k]) - row.positions[k]), 1.5F);
      }
    }
    for (size_t b = 0; b < before.size(); ++b) {
      EXPECT_LT(after[b], kMost[b] * before[b]) << cols << " columns, width " << b;
    }
  }
}

TEST(CodeDescentTest, BlocksAreApart) {
  const int64_t cols = 1000;
  const InputMoments moments = MomentsOf(Inputs(500, cols, 3), cols);
  ASSERT_EQ(moments.num_blocks(), 2);
  ASSERT_EQ(moments.size(0) + moments.size(1), cols);
  Row whole = RandomRow(cols, 4);
  const Row start = whole;
  CodeDescent(moments).Refine(whole.positions, whole.scales, absl::MakeSpan(whole.codes));
  EXPECT_NE(whole.codes, start.codes);
  // The second block's codes do not depend on the first one's.
  Row other = start;
  std::fill_n(other.scales.begin(), moments.size(0), 0.0F);
  CodeDescent(moments).Refine(other.positions, other.scales, absl::MakeSpan(other.codes));
  for (int64_t k = 0; k < cols; ++k) {
    const auto at = static_cast<size_t>(k);
    // A scale of 0 is left alone.
    EXPECT_EQ(other.codes[at], k < moments.size(0) ? start.codes[at] : whole.codes[at]) << k;
  }
}

TEST(CodeDescentTest, CodesStayOnTheirScale) {
  const int64_t cols = 64;
  const InputMoments moments = MomentsOf(Inputs(300, cols, 5), cols);
  Row row = RandomRow(cols, 6);
  for (size_t k = 0; k < row.codes.size(); ++k) {
    row.positions[k] = k % 2 == 0 ? -0.4F : 255.4F;
    row.codes[k] = static_cast<uint8_t>(CodeAt(row.positions[k]));
  }
  CodeDescent(moments).Refine(row.positions, row.scales, absl::MakeSpan(row.codes));
  for (size_t k = 0; k < row.codes.size(); ++k) {
    EXPECT_LE(std::abs(row.codes[k] - (k % 2 == 0 ? 0 : 255)), 1) << k;
  }
}

TEST(CodeDescentTest, MatricesDoNotDependOnThreads) {
  const int64_t rows = 70;
  const int64_t cols = 100;
  const InputMoments moments = MomentsOf(Inputs(300, cols, 7), cols);
  const std::vector<float> weights = Inputs(rows, cols, 8);
  const auto plain = QuantizeNested(weights, rows, cols, 64);
  const auto one = QuantizeNested(weights, rows, cols, 64, 1, {}, &moments);
  const auto three = QuantizeNested(weights, rows, cols, 64, 3, {}, &moments);
  EXPECT_NE(plain.bits78, one.bits78);
  EXPECT_EQ(plain.scales, one.scales);
  EXPECT_EQ(one.base3, three.base3);
  EXPECT_EQ(one.bit4, three.bit4);
  EXPECT_EQ(one.bit5, three.bit5);
  EXPECT_EQ(one.bit6, three.bit6);
  EXPECT_EQ(one.bits78, three.bits78);
}

}  // namespace
}  // namespace flexquant
