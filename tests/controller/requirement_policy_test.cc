// Policies that follow the precision requirement model, alone and in shared steps.

#include "controller/policy/requirement_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "controller/policy/policy_factory.h"
#include "controller/policy/shared_level.h"
#include "tests/controller/calibrated_model.h"
#include "tests/controller/status_test_util.h"

namespace flexquant::controller {
namespace {

using ::testing::HasSubstr;

constexpr int kGroups = 9;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr TokenSignals kCertain = {0.001, 0.999, 12};
constexpr TokenSignals kUncertain = {5, 0.02, 0.1};

PrecisionPlan Bits(int bits) { return PrecisionPlan::Uniform(bits, kGroups); }

class RequirementPolicyTest : public ::testing::Test {
 protected:
  RequirementPolicyTest() : model_(CalibratedTestModel(1)), ladder_(model_.policies.calibrated) {}

  std::unique_ptr<RequirementPolicy> Kl(double aim, int first = 0, int last = 4) const {
    return std::make_unique<RequirementPolicy>(ladder_, correction_, first, last,
                                               PrecisionGoal{PrecisionGoal::Kind::kMeanKl, aim}, "max_mean_kl");
  }
  int BitsAfter(const TokenSignals& signals) const {
    const auto policy = Kl(0.03);
    policy->Observe(signals);
    return policy->Next(1).bits[0];
  }

  const ModelPackage model_;
  const std::shared_ptr<const CalibratedLadder> ladder_;
  const std::shared_ptr<KlCorrection> correction_ = std::make_shared<KlCorrection>();
};

TEST_F(RequirementPolicyTest, LadderKnowsItsLevels) {
  EXPECT_EQ(ladder_->LevelsWithin(3, 8), std::make_pair(0, 4));
  EXPECT_EQ(ladder_->LevelsWithin(4, 6), std::make_pair(1, 3));
  const auto [first, last] = ladder_->LevelsWithin(7, 7);
  EXPECT_GT(first, last);
  EXPECT_EQ(ladder_->LevelBelow(Bits(8)), 4);
  EXPECT_EQ(ladder_->LevelBelow(Bits(16)), 4);
  PrecisionPlan mixed = Bits(8);
  mixed.bits[4] = 5;
  EXPECT_EQ(ladder_->LevelBelow(mixed), 2);
  EXPECT_DOUBLE_EQ(ladder_->BytesAt(5), ladder_->bytes[2]);
  EXPECT_DOUBLE_EQ(ladder_->BytesAt(7), (ladder_->bytes[3] + ladder_->bytes[4]) / 2);
  EXPECT_EQ(ladder_->BytesAt(2), ladder_->bytes[0]);
  EXPECT_EQ(ladder_->BytesAt(9), ladder_->bytes[4]);
}

TEST_F(RequirementPolicyTest, UncertaintyAsksForMoreBits) {
  EXPECT_EQ(Kl(0.03)->Next(1), Bits(8));  // nothing known yet
  EXPECT_LT(BitsAfter(kCertain), BitsAfter(kUncertain));
  for (const TokenSignals& broken : {TokenSignals{kNan, kNan, kNan}, TokenSignals{kInfinity, 0.5, 1}}) {
    EXPECT_GE(BitsAfter(broken), BitsAfter(kUncertain));
  }
}

TEST_F(RequirementPolicyTest, IsChargedForThePlanThatRan) {
  std::vector<double> charges;
  for (const int bits : {3, 5, 8}) {
    const auto policy = Kl(0.03);
    policy->Observe({1, 0.5, 1});
    policy->Next(1);
    charges.push_back(policy->Charge(Bits(bits)).value_or(-1));
  }
  EXPECT_GT(charges[0], charges[1]);
  EXPECT_GT(charges[1], 0);
  EXPECT_EQ(charges[2], 0);
  const auto policy = Kl(0.03);
  policy->Observe({1, 0.5, 1});
  policy->Next(1);
  PrecisionPlan mixed = Bits(8);
  mixed.bits[2] = 5;
  EXPECT_EQ(policy->Charge(mixed).value_or(-1), charges[1]);
}

TEST_F(RequirementPolicyTest, PredictedKlComesToTheGoal) {
  const auto policy = Kl(0.02, 1);
  std::mt19937_64 random(3);
  double sum = 0;
  for (uint32_t i = 1; i <= 2000; ++i) {
    const PrecisionPlan& plan = policy->Next(i);
    EXPECT_GE(plan.bits[0], 4);
    sum += policy->Charge(plan).value_or(-1);
    policy->Observe(random() % 2 == 0 ? kCertain : TokenSignals{1.5, 0.4, 1});
  }
  EXPECT_NEAR(sum / 2000 / 0.02, 1, 0.05);
}

TEST_F(RequirementPolicyTest, WhatTheBackendLosesComesOutOfTheBudget) {
  Calibration calibration = TestCalibration();
  calibration.backend_loss = {0.001, 0.004};
  const auto ladder = std::make_shared<CalibratedLadder>(CalibratedLadder::Make(calibration, *model_.layer_groups, 1));
  const auto run = [&](const BackendSettings& settings) {
    RequirementPolicy policy(ladder, correction_, 0, 4, {PrecisionGoal::Kind::kMeanKl, 0.02}, "max_mean_kl");
    policy.SetBackend(settings);
    std::mt19937_64 random(3);
    double kl = 0;
    double bytes = 0;
    for (uint32_t i = 1; i <= 2000; ++i) {
      const PrecisionPlan& plan = policy.Next(i);
      bytes += ladder->bytes[static_cast<size_t>(ladder->LevelBelow(plan))];
      kl += policy.Charge(plan).value_or(-1);
      policy.Observe(random() % 2 == 0 ? kCertain : TokenSignals{1.5, 0.4, 1});
    }
    return std::make_pair(kl / 2000, bytes);
  };
  const auto [exact_kl, exact_bytes] = run({});
  const auto [coarse_kl, coarse_bytes] = run({true, 8});
  EXPECT_NEAR(exact_kl / 0.02, 1, 0.05);
  EXPECT_NEAR(coarse_kl / 0.02, 1, 0.05);
  EXPECT_GT(coarse_bytes, 1.01 * exact_bytes);

  // At the top precision it is all there is.
  RequirementPolicy policy(ladder, correction_, 0, 4, {PrecisionGoal::Kind::kMeanKl, 0.02}, "max_mean_kl");
  policy.SetBackend({false, 8});
  EXPECT_EQ(policy.backend_kl(), 0.004);
  policy.Observe(kCertain);
  policy.Next(1);
  EXPECT_EQ(policy.Charge(Bits(8)), 0.004);
  // Audits teach what plans cost: the backend's part, on both sides, is not news.
  for (int i = 0; i < 5000; ++i) {
    policy.Audited(0.002 + 0.004, 0.002 + 0.004);
  }
  EXPECT_EQ(correction_->factor(), 1);
  for (int i = 0; i < 5000; ++i) {
    policy.Audited(0.002 + 0.004, 0.004 + 0.004);
  }
  EXPECT_NEAR(correction_->factor(), 2, 0.2);
}

// Of policies that have each observed one token.
std::vector<LevelDemand> Demands(const std::vector<std::unique_ptr<RequirementPolicy>>& policies,
                                 const std::vector<TokenSignals>& signals) {
  std::vector<LevelDemand> demands;
  for (size_t i = 0; i < policies.size(); ++i) {
    policies[i]->Observe(signals[i]);
    policies[i]->Next(1);
    demands.push_back(*policies[i]->demand());
  }
  return demands;
}

TEST_F(RequirementPolicyTest, ASharedStepWeighsAllItsSequences) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::unique_ptr<RequirementPolicy>> policies;
    std::vector<TokenSignals> signals;
    for (uint64_t i = 0; i < 1 + random() % 5; ++i) {
      policies.push_back(Kl(0.001 * static_cast<double>(1 + random() % 200)));
      const double entropy = 0.01 * static_cast<double>(random() % 500);
      signals.push_back({entropy, std::exp(-entropy), 5 * std::exp(-entropy)});
    }
    const auto demands = Demands(policies, signals);
    const auto cost = [&](int level) {
      double sum = static_cast<double>(demands.size()) * ladder_->bytes[static_cast<size_t>(level)];
      for (const LevelDemand& demand : demands) {
        sum += demand.chooser->Penalty(level);
      }
      return sum;
    };
    const int chosen = ladder_->LevelBelow(SharedPlan(demands, {}));
    EXPECT_EQ(SharedPlan(demands, {}), ladder_->plans[static_cast<size_t>(chosen)]);
    for (int level = 0; level < 5; ++level) {
      EXPECT_GE(cost(level), cost(chosen));
    }
    if (demands.size() == 1) {
      EXPECT_EQ(SharedPlan(demands, {}), policies[0]->Next(1));
    }
  }
}

// Of an executor that takes as long for so many bytes as for a product.
WorkTimes CostOf(double bytes_per_product) {
  WorkTimes cost;
  for (int i = 0; i < 1000; ++i) {
    const StepWork work = {1e6, i % 2 == 0 ? 1e5 : 1e7};
    cost.Observe(work, absl::Nanoseconds(work.bytes + bytes_per_product * work.products));
  }
  return cost;
}

TEST_F(RequirementPolicyTest, WhereProductsTakeLongSixBitsAreNoBargain) {
  const auto chosen = [&](const WorkTimes& cost) {
    std::set<int> bits;
    for (int i = 1; i <= 60; ++i) {
      std::vector<std::unique_ptr<RequirementPolicy>> policies;
      for (int sequence = 0; sequence < 8; ++sequence) {
        policies.push_back(Kl(0.002 * i));
      }
      const std::vector<TokenSignals> usual(8, TokenSignals{1, 0.4, 1});
      bits.insert(SharedPlan(Demands(policies, usual), {}, cost).bits[0]);
    }
    return bits;
  };
  EXPECT_TRUE(chosen(CostOf(0.01)).contains(6));
  // As much work as 8 bits, but more KL.
  EXPECT_FALSE(chosen(CostOf(10)).contains(6));
  EXPECT_TRUE(chosen(CostOf(10)).contains(5));
}

TEST_F(RequirementPolicyTest, StaticBatchMatesForceTheirWidths) {
  std::vector<std::unique_ptr<RequirementPolicy>> policies;
  policies.push_back(Kl(0.5));
  const auto demands = Demands(policies, {kCertain});
  ASSERT_EQ(SharedPlan(demands, {}), Bits(3));
  EXPECT_EQ(SharedPlan(demands, Bits(6)), Bits(6));
  PrecisionPlan floor = Bits(3);
  floor.bits[8] = 8;
  EXPECT_EQ(SharedPlan(demands, floor), floor);
}

TEST_F(RequirementPolicyTest, BoundsOfOneHoldForAllBelowAndForItselfAbove) {
  std::vector<std::unique_ptr<RequirementPolicy>> policies;
  policies.push_back(Kl(0.5, 2, 4));
  policies.push_back(Kl(0.5, 0, 1));
  EXPECT_EQ(SharedPlan(Demands(policies, {kCertain, kCertain}), {}), Bits(5));
  // One that may not go up does not ask for it, whatever its debt.
  policies.clear();
  policies.push_back(Kl(1e-5, 0, 1));
  policies.push_back(Kl(0.5, 0, 4));
  EXPECT_EQ(SharedPlan(Demands(policies, {kUncertain, kCertain}), {}), Bits(4));
}

TEST_F(RequirementPolicyTest, SurplusIsCreditThatTheBatchSpends) {
  const auto bits_after = [&](int ran_at, int tokens) {
    std::vector<std::unique_ptr<RequirementPolicy>> policies;
    policies.push_back(Kl(0.03));
    policies.push_back(Kl(0.03));
    const TokenSignals usual = {1, 0.4, 1};
    for (int i = 0; i < tokens; ++i) {
      Demands(policies, {usual, usual});
      for (const auto& policy : policies) {
        policy->Charge(Bits(ran_at));
      }
    }
    return SharedPlan(Demands(policies, {usual, usual}), {}).bits[0];
  };
  EXPECT_LT(bits_after(8, 100), bits_after(4, 100));
}

TEST_F(RequirementPolicyTest, AuditsRaiseWhatIsExpectedButNeverLowerIt) {
  EXPECT_EQ(correction_->factor(), 1);
  for (int i = 0; i < 2000; ++i) {
    correction_->Add(0.02, 0.005);
  }
  EXPECT_EQ(correction_->factor(), 1);
  KlCorrection low;
  low.Add(0.02, 0.04);
  EXPECT_GT(low.factor(), 1);
  EXPECT_LT(low.factor(), 1.05);  // slowly
  for (int i = 0; i < 5000; ++i) {
    low.Add(0.02, 0.04);
  }
  EXPECT_NEAR(low.factor(), 2, 0.1);
  for (int i = 0; i < 5000; ++i) {
    low.Add(0.02, 1);
  }
  EXPECT_EQ(low.factor(), KlCorrection::kMax);
  KlCorrection nothing;
  nothing.Add(0, 0);
  EXPECT_EQ(nothing.factor(), 1);
}

TEST_F(RequirementPolicyTest, TheCorrectionIsThatOfTheBeginning) {
  const auto charge = [](RequirementPolicy& policy) {
    policy.Observe({1, 0.5, 1});
    policy.Next(1);
    return policy.Charge(Bits(4)).value_or(-1);
  };
  const auto before = Kl(0.03);
  const double raw = charge(*Kl(0.03));
  for (int i = 0; i < 5000; ++i) {
    before->Audited(0.02, 0.04);
  }
  EXPECT_EQ(charge(*before), raw);
  const auto after = Kl(0.03);
  EXPECT_NEAR(charge(*after) / raw, 2, 0.1);
  // What is taught is the model's own prediction: what holds of twice the prediction is no news.
  for (int i = 0; i < 5000; ++i) {
    after->Audited(0.04, 0.04);
  }
  EXPECT_NEAR(correction_->factor(), 2, 0.15);
}

class RequirementFactoryTest : public RequirementPolicyTest {
 protected:
  absl::StatusOr<ResolvedPolicy> Make(const std::function<void(v1::PrecisionPolicy&)>& fill) const {
    v1::PrecisionPolicy request;
    fill(request);
    return MakePolicy(request, model_.policies, 1);
  }
};

TEST_F(RequirementFactoryTest, UnsetIsABudgetOnACalibratedModel) {
  const auto resolved = Make([](auto&) {});
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->policy->name(), "max_mean_kl");
  EXPECT_EQ(resolved->effective.max_mean_kl(), 0.01);
  EXPECT_EQ(resolved->effective.min_bits(), 3U);
  EXPECT_EQ(resolved->effective.max_bits(), 8U);
  EXPECT_EQ(resolved->prefill_plan, Bits(8));
  EXPECT_EQ(Make([](auto& p) { p.mutable_dynamic(); })->policy->name(), "dynamic");
}

TEST_F(RequirementFactoryTest, GoalsAndBoundsAreInForce) {
  const auto bits = Make([](auto& p) { p.set_target_mean_bits(5.5), p.set_min_bits(4), p.set_max_bits(6); });
  ASSERT_TRUE(bits.ok()) << bits.status();
  EXPECT_EQ(bits->policy->name(), "target_mean_bits");
  EXPECT_EQ(bits->effective.target_mean_bits(), 5.5);
  EXPECT_EQ(bits->policy->Next(1), Bits(6));
  double sum = 0;
  for (uint32_t i = 1; i <= 4000; ++i) {
    const PrecisionPlan plan = bits->policy->Next(i);
    bits->policy->Charge(plan);
    bits->policy->Observe(i % 3 == 0 ? kUncertain : kCertain);
    sum += plan.bits[0];
    EXPECT_TRUE(plan.bits[0] >= 4 && plan.bits[0] <= 6);
  }
  EXPECT_NEAR(sum / 4000, 5.5, 0.05);
}

TEST_F(RequirementFactoryTest, BadGoalsNameTheField) {
  for (const double budget : {0.0, -1.0, kNan, kInfinity, -kInfinity}) {
    const auto status = Make([&](auto& p) { p.set_max_mean_kl(budget); }).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << budget;
    EXPECT_EQ(ViolatedField(status), "precision.max_mean_kl") << budget;
  }
  for (const double bits : {0.0, 2.99, 8.01, kNan, kInfinity}) {
    const auto status = Make([&](auto& p) { p.set_target_mean_bits(bits); }).status();
    EXPECT_EQ(ViolatedField(status), "precision.target_mean_bits") << bits;
  }
  EXPECT_EQ(ViolatedField(Make([](auto& p) { p.set_max_mean_kl(0.1), p.set_min_bits(7); }).status()),
            "precision.min_bits");
}

TEST_F(RequirementFactoryTest, AnUncalibratedModelIsToBeCalibrated) {
  const ModelPackage uncalibrated = TestModel();
  for (const bool kl : {true, false}) {
    v1::PrecisionPolicy request;
    kl ? request.set_max_mean_kl(0.01) : request.set_target_mean_bits(5);
    const absl::Status status = MakePolicy(request, uncalibrated.policies, 1).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("flexquant calibrate"));
  }
}

}  // namespace
}  // namespace flexquant::controller
