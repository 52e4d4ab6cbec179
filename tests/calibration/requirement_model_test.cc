// The precision requirement model: what it finds in data of which the truth is known.

#include "common/calibration/requirement_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace flexquant {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(SignalHistoryTest, SumsUpWhatAControllerKnows) {
  SignalHistory history;
  EXPECT_TRUE(history.empty());
  history.Observe({2, 0.5, 1});
  EXPECT_EQ(history.pple_nats(), 2);
  const RequirementFeatures first = history.Features();
  EXPECT_EQ(first[0], first[3]);
  EXPECT_EQ(first[0], first[4]);
  history.Observe({1, 0.75, 12});
  EXPECT_DOUBLE_EQ(history.pple_nats(), 0.3 * 1 + 0.7 * 2);
  const RequirementFeatures second = history.Features();
  EXPECT_LT(second[0], first[0]);
  EXPECT_EQ(second[1], 10);  // the margin's limit
  EXPECT_EQ(second[2], 0.75);
  EXPECT_EQ(second[4], first[0]);
}

TEST(SignalHistoryTest, BrokenSignalsAreTheMostUncertainOnes) {
  for (const TokenSignals& broken : {TokenSignals{kNan, 0.5, 1}, TokenSignals{1, kNan, 1}, TokenSignals{1, 0.5, kNan},
                                     TokenSignals{std::numeric_limits<double>::infinity(), 0.5, 1}}) {
    SignalHistory history;
    history.Observe(broken);
    SignalHistory uncertain;
    uncertain.Observe({9, 0.01, 0.1});
    EXPECT_GT(history.pple_nats(), uncertain.pple_nats());
    EXPECT_GT(history.Features()[0], uncertain.Features()[0]);
    EXPECT_LT(history.Features()[1], uncertain.Features()[1]);
  }
}

// Draws of a gamma distribution around exp(intercept + slopes of the features).
struct Planted {
  std::vector<RequirementFeatures> features;
  std::vector<std::vector<double>> kl;
  std::vector<RequirementModel::Coefficients> truth;  // of standardised features
};

Planted Plant(size_t rows, double shape) {
  Planted planted;
  std::mt19937_64 random(5);
  std::normal_distribution<double> normal;
  for (size_t i = 0; i < rows; ++i) {
    RequirementFeatures features;
    for (size_t f = 0; f < features.size(); ++f) {
      features[f] = 3.0 * static_cast<double>(f) + (1 + static_cast<double>(f)) * normal(random);
    }
    planted.features.push_back(features);
  }
  planted.truth = {{-1, 0.5, -0.3, 0, 0.2, 0.1}, {-5, 1.0, 0, -0.4, 0, 0.3}};
  std::gamma_distribution<double> gamma(shape, 1 / shape);
  for (const auto& truth : planted.truth) {
    std::vector<double> kl;
    for (const RequirementFeatures& features : planted.features) {
      double eta = truth[0];
      for (size_t f = 0; f < features.size(); ++f) {
        eta += truth[f + 1] * (features[f] - 3.0 * static_cast<double>(f)) / (1 + static_cast<double>(f));
      }
      kl.push_back(std::exp(eta) * gamma(random));
    }
    planted.kl.push_back(std::move(kl));
  }
  return planted;
}

TEST(RequirementModelTest, RecoversAPlantedModel) {
  const Planted planted = Plant(20'000, 0.5);
  const RequirementModel model = FitRequirementModel(planted.features, planted.kl);
  ASSERT_EQ(model.rungs.size(), 2U);
  for (size_t f = 0; f < kRequirementFeatures; ++f) {
    EXPECT_NEAR(model.mean[f], 3.0 * static_cast<double>(f), 0.1);
    EXPECT_NEAR(model.scale[f], 1.0 + static_cast<double>(f), 0.1);
  }
  for (size_t r = 0; r < 2; ++r) {
    for (size_t c = 0; c < model.rungs[r].size(); ++c) {
      // The standard error is sqrt(2 / 20000) = 0.01.
      EXPECT_NEAR(model.rungs[r][c], planted.truth[r][c], 0.06) << r << " " << c;
    }
  }
  EXPECT_EQ(FitRequirementModel(planted.features, planted.kl), model);
}

TEST(RequirementModelTest, MeanPredictionIsTheMeanKl) {
  const Planted planted = Plant(300, 0.2);
  const RequirementModel model = FitRequirementModel(planted.features, planted.kl);
  std::vector<double> sums(3);
  std::vector<double> kl(3);
  for (const RequirementFeatures& features : planted.features) {
    model.Predict(features, absl::MakeSpan(kl));
    EXPECT_EQ(kl[2], 0);
    for (size_t r = 0; r < 3; ++r) {
      sums[r] += kl[r];
    }
  }
  for (size_t r = 0; r < 2; ++r) {
    const double measured = std::accumulate(planted.kl[r].begin(), planted.kl[r].end(), 0.0);
    EXPECT_NEAR(sums[r] / measured, 1, 1e-9) << r;
  }
}

TEST(RequirementModelTest, ConstantsAndZerosAreFitted) {
  const std::vector<RequirementFeatures> features(7, {1, 2, 3, 4, 5});
  const RequirementModel model = FitRequirementModel(
      features, {{0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5}, {0, 0, 0, 0, 0, 0, 0}, {0, 0, 0, 7, 0, 0, 0}});
  std::vector<double> kl(4);
  model.Predict(features[0], absl::MakeSpan(kl));
  EXPECT_NEAR(kl[0], 0.5, 1e-9);
  EXPECT_NEAR(kl[1], 0, 1e-8);
  EXPECT_NEAR(kl[2], 1, 1e-6);
  // One row is enough, however little it says.
  FitRequirementModel({features.data(), 1}, {{0.25}}).Predict({9, 9, 9, 9, 9}, absl::MakeSpan(kl).subspan(0, 2));
  EXPECT_NEAR(kl[0], 0.25, 1e-9);
}

TEST(RequirementModelTest, OutlandishFeaturesGiveNumbers) {
  const Planted planted = Plant(100, 0.5);
  const RequirementModel model = FitRequirementModel(planted.features, planted.kl);
  std::vector<double> kl(3);
  for (const double value : {1e300, -1e300}) {
    model.Predict({value, value, value, value, value}, absl::MakeSpan(kl));
    EXPECT_TRUE(std::isfinite(kl[0]) && kl[0] > 0) << kl[0];
  }
}

}  // namespace
}  // namespace flexquant
