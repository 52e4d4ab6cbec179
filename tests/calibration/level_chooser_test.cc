// Budgets on planted KL: what the chooser spends, saves and holds to.

#include "common/calibration/level_chooser.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "tests/calibration/planted.h"

namespace flexquant {
namespace {

const std::vector<double> kBytes = {300, 400, 500, 600, 800};

class LevelChooserTest : public ::testing::Test {
 protected:
  LevelChooserTest() : samples_(PlantedSamples(12, 256)), requirement_(BuildRequirement(samples_, kBytes, 1)) {}

  struct Spent {
    double predicted_kl = 0;
    double measured_kl = 0;
    double bytes = 0;
    int changes = 0;
    int lowest = 99;
    int highest = -1;
  };
  // Means over fresh text of `tokens` positions, each level as chosen.
  Spent Run(LevelChooser& chooser, size_t tokens, double kl_factor = 1) {
    const HoldoutSamples text = PlantedSamples(1, tokens + 2);
    SignalHistory history;
    std::vector<double> kl(kBytes.size());
    Spent spent;
    int before = -1;
    for (size_t i = 2; i < tokens + 2; ++i) {
      history.Observe(text.signals[0][i - 2]);
      requirement_.model.Predict(history.Features(), absl::MakeSpan(kl));
      for (double& x : kl) {
        x *= kl_factor;
      }
      chooser.SetNext(kl);
      const int level = chooser.Choose();
      const auto used = static_cast<size_t>(level);
      chooser.Charge(level);
      const auto count = static_cast<double>(tokens);
      spent.predicted_kl += kl[used] / count;
      spent.measured_kl += used + 1 < kBytes.size() ? text.kl[used][i] / count : 0;
      spent.bytes += kBytes[used] / count;
      spent.changes += before >= 0 && level != before ? 1 : 0;
      spent.lowest = std::min(spent.lowest, level);
      spent.highest = std::max(spent.highest, level);
      before = level;
    }
    return spent;
  }
  LevelChooser Kl(double aim, int first = 0, int last = 4) const {
    return {requirement_, kBytes, first, last, {PrecisionGoal::Kind::kMeanKl, aim}};
  }
  LevelChooser Bytes(double bytes) const {
    return {requirement_, kBytes, 0, 4, {PrecisionGoal::Kind::kMeanBytes, bytes}};
  }

  const HoldoutSamples samples_;
  const PrecisionRequirement requirement_;
};

TEST_F(LevelChooserTest, CurveBuysKlWithBytes) {
  const auto& curve = requirement_.curve;
  EXPECT_NEAR(curve.front().mean_bytes, 300, 1);
  EXPECT_NEAR(curve.back().mean_bytes, 800, 1);
  EXPECT_NEAR(curve.front().measured_kl, kPlantedKl[0], 0.1);
  for (size_t i = 1; i < curve.size(); ++i) {
    EXPECT_GE(curve[i].mean_bytes, curve[i - 1].mean_bytes);
    EXPECT_LE(curve[i].predicted_kl, curve[i - 1].predicted_kl);
    EXPECT_NEAR(curve[i].measured_kl, curve[i].predicted_kl, 0.1 * curve[i].predicted_kl + 1e-4) << i;
  }
  EXPECT_EQ(BuildRequirement(samples_, kBytes, 1), requirement_);
}

TEST_F(LevelChooserTest, QualityIsThatOfTheOtherHalf) {
  const RequirementQuality quality = CheckRequirement(samples_, 1);
  EXPECT_LT(quality.deviance, 0.8 * quality.constant_deviance);
  ASSERT_EQ(quality.tenths.size(), 10U);
  for (size_t i = 0; i < 10; ++i) {
    const auto [predicted, measured] = quality.tenths[i];
    EXPECT_NEAR(measured / predicted, 1, 0.25) << i;
    EXPECT_TRUE(i == 0 || predicted > quality.tenths[i - 1].first);
  }
  // Without a planted relation the signals are worth nothing, and the model says so.
  HoldoutSamples blind = samples_;
  std::mt19937_64 random(1);
  for (auto& rung : blind.kl) {
    std::shuffle(rung.begin(), rung.end(), random);
  }
  const RequirementQuality none = CheckRequirement(blind, 1);
  EXPECT_NEAR(none.deviance / none.constant_deviance, 1, 0.02);
}

TEST_F(LevelChooserTest, LambdaLiesWhereTheCurveSays) {
  const auto& curve = requirement_.curve;
  for (const size_t i : {10, 20, 30}) {
    EXPECT_NEAR(requirement_.LambdaForKl(curve[i].predicted_kl) / curve[i].lambda, 1, 1e-6);
  }
  EXPECT_EQ(requirement_.LambdaForKl(1e9), curve.front().lambda);
  EXPECT_GT(requirement_.LambdaForKl(0), curve[30].lambda);
  EXPECT_EQ(requirement_.LambdaForBytes(1), curve.front().lambda);
  EXPECT_EQ(requirement_.LambdaForBytes(801), curve.back().lambda);
  EXPECT_LT(requirement_.LambdaForBytes(450), requirement_.LambdaForBytes(550));
}

TEST_F(LevelChooserTest, AimsLeaveRoomForHeavyTails) {
  double before = 0;
  for (const double budget : {1e-6, 0.001, 0.01, 0.1, 0.3, 100.0}) {
    const double aim = requirement_.SafeAim(budget);
    EXPECT_GT(aim, before);
    EXPECT_LE(aim, budget);
    before = aim;
  }
  EXPECT_LT(requirement_.SafeAim(0.03), 0.03);
}

TEST_F(LevelChooserTest, KeepsABudgetOfKl) {
  for (const double aim : {0.003, 0.02, 0.1}) {
    LevelChooser chooser = Kl(aim);
    const Spent spent = Run(chooser, 4000);
    EXPECT_NEAR(spent.predicted_kl / aim, 1, 0.05);
    EXPECT_NEAR(spent.measured_kl / aim, 1, 0.25);
  }
}

TEST_F(LevelChooserTest, WhatIsReservedOfABudgetIsNotSpent) {
  LevelChooser chooser = Kl(0.02);
  chooser.ReserveKl(0.015);
  EXPECT_NEAR(Run(chooser, 4000).predicted_kl / 0.005, 1, 0.05);
  chooser.ReserveKl(0);
  EXPECT_GT(Run(chooser, 4000).predicted_kl / 0.02, 0.9);
  LevelChooser nothing_left = Kl(0.02);
  nothing_left.ReserveKl(0.03);
  EXPECT_LT(Run(nothing_left, 1000).predicted_kl, 0.02 * 0.01);
  LevelChooser bytes = Bytes(480);
  bytes.ReserveKl(1);
  EXPECT_NEAR(Run(bytes, 4000).bytes, 480, 5);
}

TEST_F(LevelChooserTest, KeepsABudgetOfBytes) {
  for (const double bytes : {350.0, 480.0, 700.0}) {
    LevelChooser chooser = Bytes(bytes);
    EXPECT_NEAR(Run(chooser, 4000).bytes, bytes, 5);
  }
}

TEST_F(LevelChooserTest, SignalsSaveBytesAtEqualKl) {
  LevelChooser chooser = Kl(0.05);
  const Spent spent = Run(chooser, 4000);
  // Level 2 everywhere has a mean KL of 0.05 too.
  EXPECT_LT(spent.bytes, 0.98 * kBytes[2]);
  EXPECT_NEAR(spent.measured_kl, 0.05, 0.01);
}

TEST_F(LevelChooserTest, GoesUpAtOnceAndDownAgain) {
  LevelChooser chooser = Kl(0.02);
  const std::vector<double> easy = {1e-3, 1e-4, 1e-5, 1e-6, 0};
  const std::vector<double> hard = {90, 30, 10, 5, 0};
  chooser.SetNext(easy);
  EXPECT_EQ(chooser.Choose(), 0);
  chooser.Charge(0);
  chooser.SetNext(hard);
  EXPECT_EQ(chooser.Choose(), 4);
  chooser.Charge(4);
  chooser.SetNext(easy);
  EXPECT_EQ(chooser.Choose(), 0);
}

TEST_F(LevelChooserTest, SurplusBecomesCreditAndOverspendingDebt) {
  const std::vector<double> kl = kPlantedKl;
  const auto level_after = [&](int forced, int tokens) {
    LevelChooser chooser = Kl(0.05);
    for (int i = 0; i < tokens; ++i) {
      chooser.SetNext(kl);
      chooser.Charge(forced);
    }
    chooser.SetNext(kl);
    return chooser.Choose();
  };
  const int neutral = level_after(2, 20);
  EXPECT_LT(level_after(4, 200), neutral);  // a batch-mate paid for the top
  EXPECT_GT(level_after(0, 20), neutral);
}

TEST_F(LevelChooserTest, ALevelIsHeldUnlessAMovePays) {
  const std::vector<double> costs = {1000, 996, 1000};
  EXPECT_EQ(LevelChooser::Cheapest(costs, 0, 2, -1), 1);
  EXPECT_EQ(LevelChooser::Cheapest(costs, 0, 2, 0), 0);
  EXPECT_EQ(LevelChooser::Cheapest(costs, 0, 2, 2), 2);
  EXPECT_EQ(LevelChooser::Cheapest({1000, 900, 1000}, 0, 2, 2), 1);
  EXPECT_EQ(LevelChooser::Cheapest(costs, 2, 2, 0), 2);  // the one held is out of bounds
  EXPECT_EQ(LevelChooser::Cheapest({1, 2, 3}, 1, 2, -1), 1);
}

TEST_F(LevelChooserTest, StaysWithinItsBounds) {
  for (const double aim : {1e-6, 100.0}) {
    LevelChooser chooser = Kl(aim, 1, 3);
    EXPECT_EQ(chooser.Choose(), 3);  // before the first signal
    const Spent spent = Run(chooser, 300);
    EXPECT_GE(spent.lowest, 1);
    EXPECT_LE(spent.highest, 3);
    EXPECT_EQ(chooser.Penalty(4), chooser.Penalty(3));
  }
  LevelChooser one = Kl(0.01, 2, 2);
  EXPECT_EQ(Run(one, 50).changes, 0);
}

TEST(BuildRequirementTest, ALadderOfOneRungAndShortWindowsAreFine) {
  HoldoutSamples samples;
  samples.signals = {{{1, 0.5, 1}, {2, 0.4, 1}, {0, 1, 9}}, {{1, 0.5, 1}, {2, 0.4, 1}, {0, 1, 9}}};
  const PrecisionRequirement one = BuildRequirement(samples, {800.0}, 0);
  EXPECT_TRUE(one.model.rungs.empty());
  EXPECT_EQ(one.curve.back().mean_bytes, 800);
  samples.kl = {{0.1, 0.2, 0.3, 0.1, 0.2, 0.3}};
  const PrecisionRequirement two = BuildRequirement(samples, {400.0, 800.0}, 1);
  EXPECT_EQ(two.curve.front().mean_bytes, 400);
  EXPECT_EQ(two.curve.back().mean_bytes, 800);
}

}  // namespace
}  // namespace flexquant
