#include "common/store/group_fit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "common/half.h"
#include "common/precision.h"

namespace flexquant {
namespace {

// Weight that `fit` gives back at `bits`.
float Decode(const GroupFit& fit, float weight, int bits) {
  if (fit.scale == 0) {
    return 0;
  }
  const int dropped = (1 << (8 - bits)) - 1;
  const int code = CodeAt(weight * (1 / fit.scale) + fit.zero);
  return fit.scale * (static_cast<float>(code & ~dropped) + static_cast<float>(dropped) / 2 - fit.zero);
}

double SquaredError(const std::vector<float>& weights, const GroupFit& fit, int bits) {
  double sum = 0;
  for (const float w : weights) {
    sum += std::pow(static_cast<double>(Decode(fit, w, bits)) - static_cast<double>(w), 2);
  }
  return sum;
}

// The fit without a search: minimum to maximum.
GroupFit PlainFit(const std::vector<float>& weights) {
  const auto [low, high] = std::minmax_element(weights.begin(), weights.end());
  const float scale = HalfToFloat(FloatToHalf((*high - *low) / kMaxCode));
  return {scale, HalfToFloat(FloatToHalf(-*low / scale))};
}

TEST(GroupFitTest, SearchLowersEveryWidthsErrorOverThePlainRange) {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  for (const size_t size : {size_t{32}, size_t{64}, size_t{128}}) {
    std::array<double, kPrecisions.size()> searched{};
    std::array<double, kPrecisions.size()> plain{};
    std::vector<float> weights(size);
    for (int group = 0; group < 400; ++group) {
      std::generate(weights.begin(), weights.end(), [&] { return normal(generator); });
      for (size_t p = 0; p < kPrecisions.size(); ++p) {
        searched[p] += SquaredError(weights, FitGroup(weights), kPrecisions[p]);
        plain[p] += SquaredError(weights, PlainFit(weights), kPrecisions[p]);
      }
    }
    for (size_t p = 0; p < kPrecisions.size(); ++p) {
      const double ratio = std::sqrt(searched[p] / plain[p]);
      EXPECT_LT(ratio, 1.005) << kPrecisions[p] << " bits, groups of " << size;
      if (kPrecisions[p] == 4) {
        EXPECT_LT(ratio, 0.985) << "groups of " << size;
      }
    }
  }
}

TEST(GroupFitTest, ImportantWeightsGetTheLowWidthsTheyNeed) {
  // A sixteenth of the weights lies in the middles of the cells of 4 bits of one pair; the others lie anywhere.
  std::mt19937 generator(6);
  std::uniform_int_distribution<int> cell(0, 15);
  std::uniform_real_distribution<float> anywhere(0.0F, 255.0F);
  std::array<double, 2> errors{};  // of the important ones at 4 bits, fitted alike and by importance
  constexpr float kScale = 0.0078125F;
  for (int group = 0; group < 200; ++group) {
    std::vector<float> weights;
    std::vector<float> importance;
    std::vector<float> important;
    for (int i = 0; i < 64; ++i) {
      const bool counts = i % 16 == 0;
      const float position = counts ? static_cast<float>(16 * cell(generator)) + 7.5F : anywhere(generator);
      weights.push_back(kScale * (position - 120));
      importance.push_back(counts ? 1000.0F : 1.0F);
      if (counts) {
        important.push_back(weights.back());
      }
    }
    errors[0] += SquaredError(important, FitGroup(weights), 4);
    errors[1] += SquaredError(important, FitGroup(weights, importance), 4);
  }
  EXPECT_LT(std::sqrt(errors[1] / errors[0]), 0.8);
}

TEST(GroupFitTest, EqualImportanceIsNone) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  std::vector<float> weights(64);
  std::generate(weights.begin(), weights.end(), [&] { return normal(generator); });
  const GroupFit none = FitGroup(weights);
  const GroupFit equal = FitGroup(weights, std::vector<float>(64, 4.0F));
  EXPECT_EQ(equal.scale, none.scale);
  EXPECT_EQ(equal.zero, none.zero);
  EXPECT_EQ(equal.cost, 4 * none.cost);
}

TEST(GroupFitTest, GroupsFarFromZeroKeepTheirResolution) {
  std::mt19937 generator(4);
  std::uniform_real_distribution<float> uniform(5.0F, 6.0F);
  std::vector<float> weights(64);
  std::generate(weights.begin(), weights.end(), [&] { return uniform(generator); });
  const GroupFit fit = FitGroup(weights);
  for (const int bits : kPrecisions) {
    const double step = 1.0 / (1 << bits);
    EXPECT_LT(std::sqrt(SquaredError(weights, fit, bits) / 64), 0.35 * step) << bits;
  }
}

TEST(GroupFitTest, OneWeightIsKeptWithinOnePercentAtEveryWidth) {
  for (const float weight : {0.013F, -0.013F, 1.0F, -250.0F, 8.3e6F, -8.3e6F}) {
    const GroupFit fit = FitGroup({weight});
    for (const int bits : kPrecisions) {
      EXPECT_NEAR(Decode(fit, weight, bits) / weight, 1.0F, 0.01F) << weight << " at " << bits;
    }
  }
}

TEST(GroupFitTest, ZerosHaveScaleZero) {
  const GroupFit fit = FitGroup(std::vector<float>(17, 0.0F));
  EXPECT_EQ(fit.scale, 0.0F);
  EXPECT_EQ(fit.zero, 0.0F);
}

TEST(GroupFitTest, PairIsExactlyRepresentableAndFiniteAtAnyMagnitude) {
  std::mt19937 generator(5);
  std::normal_distribution<float> normal;
  for (int exponent = -140; exponent <= 125; ++exponent) {
    std::vector<float> weights(32);
    std::generate(weights.begin(), weights.end(), [&] { return std::ldexp(normal(generator), exponent); });
    const GroupFit fit = FitGroup(weights);
    ASSERT_EQ(HalfToFloat(FloatToHalf(fit.scale)), fit.scale) << exponent;
    ASSERT_EQ(HalfToFloat(FloatToHalf(fit.zero)), fit.zero) << exponent;
    ASSERT_LE(std::abs(fit.zero), 2048) << exponent;
    for (const float w : weights) {
      const float decoded = Decode(fit, w, 8);
      ASSERT_TRUE(std::isfinite(decoded)) << exponent;
      // Subnormal scales cannot be finer than 2^-24; huge ranges saturate.
      if (exponent < 20) {
        ASSERT_NEAR(decoded, w, std::max(std::ldexp(0.04F, exponent), 0x1p-24F)) << exponent;
      }
    }
  }
}

}  // namespace
}  // namespace flexquant
