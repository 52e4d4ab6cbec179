#include "controller/policy/policies.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <vector>

namespace flexquant::controller {
namespace {

constexpr int kGroups = 9;

TokenSignals Entropy(double nats) { return {nats, 0.5, 1.0}; }

int BitsOf(const PrecisionPlan& plan) { return plan.bits.front(); }

TEST(LadderTest, UniformHasOneLevelForEveryPrecision) {
  const Ladder ladder = Ladder::Uniform(kGroups);
  ASSERT_EQ(ladder.levels.size(), kPrecisions.size());
  EXPECT_FALSE(ladder.calibrated);
  for (size_t level = 0; level < ladder.levels.size(); ++level) {
    EXPECT_EQ(ladder.levels[level], PrecisionPlan::Uniform(kPrecisions[level], kGroups));
  }
}

TEST(LadderTest, RestrictionKeepsPlansWhollyInsideTheBounds) {
  Ladder ladder = Ladder::Uniform(2);
  ladder.levels.insert(ladder.levels.begin() + 1, PrecisionPlan{{3, 8}});
  const Ladder restricted = ladder.Restricted(4, 6);
  ASSERT_EQ(restricted.levels.size(), 3U);
  EXPECT_EQ(BitsOf(restricted.levels[0]), 4);
  EXPECT_EQ(BitsOf(restricted.levels[2]), 6);
  EXPECT_TRUE(ladder.Restricted(7, 7).levels.empty());
}

TEST(StaticPolicyTest, NeverChangesItsMind) {
  StaticPolicy policy(PrecisionPlan::Uniform(5, kGroups), "fixed");
  for (uint32_t i = 1; i < 10; ++i) {
    policy.Observe(Entropy(i));
    EXPECT_EQ(policy.Next(i), PrecisionPlan::Uniform(5, kGroups));
  }
  EXPECT_EQ(policy.name(), "fixed");
}

TEST(DynamicPolicyTest, StaysAtTheTopUntilItKnowsSomething) {
  DynamicPolicy policy(Ladder::Uniform(kGroups), {});
  EXPECT_EQ(BitsOf(policy.Next(1)), 8);
}

TEST(DynamicPolicyTest, GoesDownOneLevelATokenWhileCertain) {
  DynamicPolicy policy(Ladder::Uniform(kGroups), {});
  std::vector<int> bits;
  for (uint32_t i = 1; i <= 6; ++i) {
    policy.Observe(Entropy(0));
    bits.push_back(BitsOf(policy.Next(i)));
  }
  EXPECT_EQ(bits, (std::vector<int>{6, 5, 4, 3, 3, 3}));
}

TEST(DynamicPolicyTest, GoesUpAtOnceWhenSurprised) {
  DynamicPolicy policy(Ladder::Uniform(kGroups), {});
  for (int i = 0; i < 8; ++i) {
    policy.Observe(Entropy(0));
  }
  ASSERT_EQ(policy.level(), 0);
  policy.Observe(Entropy(2.0));
  EXPECT_EQ(policy.level(), 4);
}

TEST(DynamicPolicyTest, RemembersUncertaintyThroughPple) {
  DynamicPolicy::Params params;
  params.pple_weight = 0.5;
  DynamicPolicy policy(Ladder::Uniform(kGroups), params);
  policy.Observe(Entropy(2.0));
  EXPECT_DOUBLE_EQ(policy.pple_nats(), 2.0);
  policy.Observe(Entropy(0));
  EXPECT_DOUBLE_EQ(policy.pple_nats(), 1.0);
  policy.Observe(Entropy(0));
  EXPECT_DOUBLE_EQ(policy.pple_nats(), 0.5);
  // PPLE 1.0 of 2.0 nats wants level 2, 0.5 wants level 1: one level a token from 4.
  EXPECT_EQ(policy.level(), 2);
}

TEST(DynamicPolicyTest, WantedLevelIsProportionalToEntropy) {
  for (const auto& [nats, level] :
       std::vector<std::pair<double, int>>{{0, 0}, {0.5, 1}, {1, 2}, {1.5, 3}, {2, 4}, {9, 4}}) {
    DynamicPolicy policy(Ladder::Uniform(kGroups), {.pple_weight = 1.0, .hysteresis_levels = 0});
    for (int i = 0; i < 6; ++i) {
      policy.Observe(Entropy(nats));
    }
    EXPECT_EQ(policy.level(), level) << nats;
  }
}

TEST(DynamicPolicyTest, HysteresisHoldsTheLevelThroughSmallChanges) {
  DynamicPolicy policy(Ladder::Uniform(kGroups), {.pple_weight = 1.0, .hysteresis_levels = 1.2});
  policy.Observe(Entropy(1.5));  // wants 3: one level from 4, within 1.2
  EXPECT_EQ(policy.level(), 4);
  policy.Observe(Entropy(1.0));  // wants 2
  EXPECT_EQ(policy.level(), 3);
  policy.Observe(Entropy(1.0));  // still 2: within 1.2 of 3
  EXPECT_EQ(policy.level(), 3);
  policy.Observe(Entropy(2.0));  // wants 4: within 1.2 of 3
  EXPECT_EQ(policy.level(), 3);
}

TEST(DynamicPolicyTest, LargestHysteresisNeverMoves) {
  DynamicPolicy policy(Ladder::Uniform(kGroups), {.pple_weight = 1.0, .hysteresis_levels = 4});
  for (int i = 0; i < 20; ++i) {
    policy.Observe(Entropy(0));
  }
  EXPECT_EQ(policy.level(), 4);
}

TEST(DynamicPolicyTest, BrokenSignalsNeverLowerPrecision) {
  for (const double broken : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    DynamicPolicy policy(Ladder::Uniform(kGroups), {});
    for (int i = 0; i < 10; ++i) {
      policy.Observe(Entropy(broken));
    }
    EXPECT_EQ(policy.level(), 4) << broken;
    EXPECT_EQ(policy.pple_nats(), 2.0) << broken;
  }
}

TEST(DynamicPolicyTest, StaysOnARestrictedLadder) {
  DynamicPolicy policy(Ladder::Uniform(kGroups).Restricted(4, 6), {});
  std::set<int> seen;
  for (uint32_t i = 1; i <= 20; ++i) {
    seen.insert(BitsOf(policy.Next(i)));
    policy.Observe(Entropy(i % 7 == 0 ? 5.0 : 0.0));
  }
  EXPECT_EQ(seen, (std::set<int>{4, 5, 6}));
}

TEST(DynamicPolicyTest, ALadderOfOneLevelIsFine) {
  DynamicPolicy policy(Ladder::Uniform(kGroups).Restricted(5, 5), {});
  policy.Observe(Entropy(0));
  EXPECT_EQ(BitsOf(policy.Next(1)), 5);
  policy.Observe(Entropy(10));
  EXPECT_EQ(BitsOf(policy.Next(2)), 5);
}

TEST(RandomPolicyTest, DependsOnlyOnSeedAndPosition) {
  RandomPolicy forward(Ladder::Uniform(kGroups), 7);
  RandomPolicy backward(Ladder::Uniform(kGroups), 7);
  RandomPolicy other(Ladder::Uniform(kGroups), 8);
  std::vector<int> a(101);
  std::vector<int> b(101);
  int same_as_other = 0;
  for (uint32_t i = 1; i <= 100; ++i) {
    forward.Observe(Entropy(i));
    a[i] = BitsOf(forward.Next(i));
    same_as_other += a[i] == BitsOf(other.Next(i)) ? 1 : 0;
  }
  for (uint32_t i = 100; i >= 1; --i) {
    b[i] = BitsOf(backward.Next(i));
  }
  EXPECT_EQ(a, b);
  EXPECT_LT(same_as_other, 60);
}

TEST(RandomPolicyTest, IsUniformOverTheLevels) {
  RandomPolicy policy(Ladder::Uniform(kGroups), 1);
  std::vector<int> counts(9);
  constexpr int kDraws = 10000;
  for (uint32_t i = 1; i <= kDraws; ++i) {
    ++counts[static_cast<size_t>(BitsOf(policy.Next(i)))];
  }
  for (const int bits : kPrecisions) {
    // Five standard deviations of a binomial with p = 1/5.
    EXPECT_NEAR(counts[static_cast<size_t>(bits)], kDraws / 5, 200) << bits;
  }
}

TEST(PositionPolicyTest, LowersProgressivelyToTheLowest) {
  PositionPolicy policy(Ladder::Uniform(kGroups), 2);
  std::vector<int> bits;
  for (uint32_t i = 1; i <= 11; ++i) {
    policy.Observe(Entropy(9));
    bits.push_back(BitsOf(policy.Next(i)));
  }
  EXPECT_EQ(bits, (std::vector<int>{8, 6, 6, 5, 5, 4, 4, 3, 3, 3, 3}));
}

TEST(PositionPolicyTest, HugeValuesDoNotOverflow) {
  PositionPolicy policy(Ladder::Uniform(kGroups), UINT32_MAX);
  EXPECT_EQ(BitsOf(policy.Next(UINT32_MAX - 1)), 8);
  PositionPolicy fast(Ladder::Uniform(kGroups), 1);
  EXPECT_EQ(BitsOf(fast.Next(UINT32_MAX)), 3);
}

}  // namespace
}  // namespace flexquant::controller
