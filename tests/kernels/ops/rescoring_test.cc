// Rescoring: which logits are computed again at 8 bits, and what they become (common/rescoring.h).

#include "common/rescoring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/precision.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/compare.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using testing::kEpsilon;
using testing::RandomFloats;
using testing::RandomMatrix;

class RescoringTest : public testing::BackendTest {
 protected:
  // Rescores `logits` and checks every one of them.
  void Check(const NestedMatrix& w, const std::vector<int>& widths, const std::vector<float>& logits, int64_t limit,
             uint32_t seed) {
    const auto m = static_cast<int64_t>(widths.size());
    const auto x = RandomFloats(m * w.cols, seed);
    const auto got = backend().Rescore(w, x, widths, logits, limit);
    ASSERT_EQ(got.size(), logits.size());
    for (int64_t t = 0; t < m; ++t) {
      const float* before = logits.data() + t * w.rows;
      std::vector<int64_t> likeliest;
      if (IsRescored(widths[static_cast<size_t>(t)])) {
        likeliest = reference::Likeliest(before, w.rows, limit);
        ASSERT_LE(static_cast<int64_t>(likeliest.size()), limit);
      }
      for (int64_t n = 0; n < w.rows; ++n) {
        const float value = got[static_cast<size_t>(t * w.rows + n)];
        if (std::binary_search(likeliest.begin(), likeliest.end(), n)) {
          ExpectProduct(w, n, x.data() + t * w.cols, value);
        } else {
          ASSERT_EQ(value, before[n]) << "row " << t << ", token " << n;
        }
      }
    }
  }

 private:
  // Activations may be as fine as 15 bits of a group's largest, or fp32.
  void ExpectProduct(const NestedMatrix& w, int64_t n, const float* x, float value) {
    double sum = 0;
    double magnitude = 0;
    double step = 0;
    for (int64_t k = 0; k < w.cols; ++k) {
      const double weight = reference::Weight(w, kTopPrecision, n, k);
      sum += weight * static_cast<double>(x[k]);
      magnitude += std::fabs(weight * static_cast<double>(x[k]));
      const int64_t begin = k / w.group_size * w.group_size;
      const int64_t end = std::min(begin + w.group_size, w.cols);
      double largest = 0;
      for (int64_t j = begin; j < end; ++j) {
        largest = std::max(largest, std::fabs(static_cast<double>(x[j])));
      }
      step += std::fabs(weight) * largest / (127 * 128);
    }
    ASSERT_NEAR(static_cast<double>(value), sum,
                4 * std::sqrt(static_cast<double>(w.cols)) * kEpsilon * magnitude + step)
        << "token " << n;
  }
};

TEST_P(RescoringTest, EveryShape) {
  uint32_t seed = 1;
  for (const int64_t group : backend().group_sizes()) {
    for (const int64_t cols : {1, 31, 64, 172, 576}) {
      for (const int64_t rows : {1, 15, 17, 700, 5000}) {
        const RandomMatrix w(rows, cols, group, ++seed);
        for (const int64_t m : {1, 3}) {
          SCOPED_TRACE(::testing::Message()
                       << rows << " x " << cols << ", groups of " << group << ", " << m << " rows");
          const std::vector<int> widths(static_cast<size_t>(m), 4);
          seed += 2;
          Check(w.view(), widths, RandomFloats(m * rows, seed, 3.0F), std::min<int64_t>(rows, 40), seed + 1);
        }
      }
    }
  }
}

TEST_P(RescoringTest, OnlyHeadsBelowEightBits) {
  const RandomMatrix w(900, 64, 64, 7);
  const std::vector<int> widths = {8, 3, 16, 4, 5, 6, 8, 3};
  Check(w.view(), widths, RandomFloats(static_cast<int64_t>(widths.size()) * 900, 8, 2.0F), 30, 9);
}

TEST_P(RescoringTest, NoneWithoutALimit) {
  const RandomMatrix w(100, 64, 64, 7);
  Check(w.view(), {3}, RandomFloats(100, 8), 0, 9);
}

TEST_P(RescoringTest, EqualLogitsAreAllOrNone) {
  const RandomMatrix w(1000, 64, 64, 7);
  const std::vector<float> flat(1000, 1.5F);
  ASSERT_TRUE(reference::Likeliest(flat.data(), 1000, 999).empty());
  ASSERT_EQ(reference::Likeliest(flat.data(), 1000, 1000).size(), 1000U);
  Check(w.view(), {3}, flat, 999, 9);
  Check(w.view(), {3}, flat, 1000, 10);
}

TEST_P(RescoringTest, TokensEightNatsBelowAreLeft) {
  const RandomMatrix w(64, 64, 64, 7);
  std::vector<float> logits(64, -1e30F);
  logits[5] = 100.0F;
  logits[6] = 92.25F;
  logits[7] = 92.0F;
  logits[63] = 99.0F;
  ASSERT_EQ(reference::Likeliest(logits.data(), 64, 10), (std::vector<int64_t>{5, 6, 63}));
  Check(w.view(), {3}, logits, 10, 9);
  // Two would be one too many within the step that holds the second one.
  ASSERT_EQ(reference::Likeliest(logits.data(), 64, 1), (std::vector<int64_t>{5}));
  Check(w.view(), {3}, logits, 1, 9);
}

// A NaN may be anywhere when the largest is looked for; whatever is chosen beside it, it stays where it is.
TEST_P(RescoringTest, WhatIsNotFiniteIsLeft) {
  const int64_t n = 1000;
  const RandomMatrix w(n, 64, 64, 7);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {nan, infinity, -infinity}) {
    for (const size_t first : {size_t{0}, size_t{255}, size_t{500}, size_t{999}}) {
      std::vector<float> logits = RandomFloats(n, 8, 3.0F);
      logits[17] = 50.0F;
      for (size_t i = first; i < static_cast<size_t>(n); i += 61) {
        logits[i] = bad;
      }
      const auto got = backend().Rescore(w.view(), RandomFloats(64, 9), {3}, logits, 40);
      for (size_t i = first; i < static_cast<size_t>(n); i += 61) {
        EXPECT_EQ(std::isnan(got[i]), std::isnan(bad)) << i;
        EXPECT_TRUE(std::isnan(bad) || got[i] == bad) << i;
      }
    }
  }
}

TEST_P(RescoringTest, AWholeVocabulary) {
  const RandomMatrix w(49152, 32, 64, 7);
  Check(w.view(), {4, 6}, RandomFloats(2 * 49152, 8, 2.0F), RescoredRows(49152), 9);
}

FLEXQUANT_INSTANTIATE_BACKEND_TEST(RescoringTest, false);

}  // namespace
}  // namespace flexquant
