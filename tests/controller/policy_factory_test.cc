#include "controller/policy/policy_factory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "tests/controller/calibrated_model.h"
#include "tests/controller/status_test_util.h"

namespace flexquant::controller {
namespace {

using ::testing::HasSubstr;

constexpr int kGroups = 9;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

PolicyContext Context(bool has_reference = false) {
  return {kGroups, has_reference, Ladder::Uniform(kGroups), UniformNamedPlans(kGroups), nullptr, nullptr};
}

TEST(PolicyFactoryTest, UnsetMeansDynamicWithItsDefaults) {
  auto resolved = MakePolicy({}, Context(), 1);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->policy->name(), "dynamic");
  EXPECT_EQ(resolved->effective.dynamic().pple_weight(), 0.3);
  EXPECT_EQ(resolved->effective.dynamic().entropy_high_nats(), 2.0);
  EXPECT_EQ(resolved->effective.dynamic().hysteresis_levels(), 0.5);
  EXPECT_EQ(resolved->effective.min_bits(), 3U);
  EXPECT_EQ(resolved->effective.max_bits(), 8U);
  EXPECT_EQ(resolved->prefill_plan, PrecisionPlan::Uniform(8, kGroups));
}

TEST(PolicyFactoryTest, FixedBits) {
  for (const int bits : kPrecisions) {
    v1::PrecisionPolicy request;
    request.set_fixed_bits(static_cast<uint32_t>(bits));
    auto resolved = MakePolicy(request, Context(), 1);
    ASSERT_TRUE(resolved.ok()) << resolved.status();
    EXPECT_EQ(resolved->policy->name(), "fixed");
    EXPECT_EQ(resolved->policy->Next(1), PrecisionPlan::Uniform(bits, kGroups));
    EXPECT_EQ(resolved->prefill_plan, PrecisionPlan::Uniform(8, kGroups));
    EXPECT_EQ(resolved->effective.fixed_bits(), static_cast<uint32_t>(bits));
    EXPECT_FALSE(resolved->effective.has_min_bits());
  }
}

TEST(PolicyFactoryTest, SixteenBitsNeedTheReferenceAndPrefillWithIt) {
  v1::PrecisionPolicy request;
  request.set_fixed_bits(16);
  const absl::Status refused = MakePolicy(request, Context(), 1).status();
  EXPECT_EQ(ViolatedField(refused), "precision.fixed_bits");
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--keep-reference"));
  auto resolved = MakePolicy(request, Context(true), 1);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->policy->Next(1), PrecisionPlan::Uniform(16, kGroups));
  EXPECT_EQ(resolved->prefill_plan, PrecisionPlan::Uniform(16, kGroups));
}

TEST(PolicyFactoryTest, NamedPlan) {
  v1::PrecisionPolicy request;
  request.set_named_plan("uniform-4");
  auto resolved = MakePolicy(request, Context(), 1);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->policy->name(), "plan");
  EXPECT_EQ(resolved->policy->Next(1), PrecisionPlan::Uniform(4, kGroups));
  EXPECT_EQ(resolved->effective.named_plan(), "uniform-4");
}

TEST(PolicyFactoryTest, UnknownPlanIsNotFoundAndNamesTheKnownOnes) {
  v1::PrecisionPolicy request;
  request.set_named_plan("uniform-7");
  const absl::Status status = MakePolicy(request, Context(), 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("uniform-7"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("uniform-3, uniform-4"));
}

TEST(PolicyFactoryTest, LayerGroupPlan) {
  v1::PrecisionPolicy request;
  for (const uint32_t bits : {3, 4, 5, 6, 8, 3, 4, 5, 6}) {
    request.mutable_layer_group_plan()->add_bits(bits);
  }
  auto resolved = MakePolicy(request, Context(), 1);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->policy->Next(1).bits, (std::vector<uint8_t>{3, 4, 5, 6, 8, 3, 4, 5, 6}));
  EXPECT_EQ(resolved->effective.layer_group_plan().bits_size(), kGroups);
}

TEST(PolicyFactoryTest, BoundsRestrictTheLadder) {
  v1::PrecisionPolicy request;
  request.mutable_position()->set_tokens_per_level(1);
  request.set_min_bits(4);
  request.set_max_bits(6);
  auto resolved = MakePolicy(request, Context(), 1);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->policy->Next(0).bits[0], 6);
  EXPECT_EQ(resolved->policy->Next(100).bits[0], 4);
  EXPECT_EQ(resolved->prefill_plan.bits[0], 8);
  EXPECT_EQ(resolved->effective.min_bits(), 4U);
  EXPECT_EQ(resolved->effective.max_bits(), 6U);
}

TEST(PolicyFactoryTest, RandomTakesTheSamplingSeedUnlessItHasItsOwn) {
  v1::PrecisionPolicy request;
  request.mutable_random();
  auto inherited = MakePolicy(request, Context(), 99);
  ASSERT_TRUE(inherited.ok());
  EXPECT_EQ(inherited->effective.random().seed(), 99U);
  request.mutable_random()->set_seed(0);
  auto own = MakePolicy(request, Context(), 99);
  ASSERT_TRUE(own.ok());
  EXPECT_TRUE(own->effective.random().has_seed());
  EXPECT_EQ(own->effective.random().seed(), 0U);
  EXPECT_EQ(own->policy->name(), "random");
}

TEST(PolicyFactoryTest, PositionDefaults) {
  v1::PrecisionPolicy request;
  request.mutable_position();
  auto resolved = MakePolicy(request, Context(), 1);
  ASSERT_TRUE(resolved.ok());
  EXPECT_EQ(resolved->effective.position().tokens_per_level(), 16U);
  EXPECT_EQ(resolved->policy->name(), "position");
}

struct BadPolicy {
  std::string name;
  std::function<void(v1::PrecisionPolicy&)> spoil;
  std::string field;
};

class BadPolicyTest : public ::testing::TestWithParam<BadPolicy> {};

TEST_P(BadPolicyTest, NamesTheField) {
  v1::PrecisionPolicy request;
  GetParam().spoil(request);
  const absl::Status status = MakePolicy(request, Context(), 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ViolatedField(status), GetParam().field) << status;
}

INSTANTIATE_TEST_SUITE_P(
    All, BadPolicyTest,
    ::testing::Values(
        BadPolicy{"FixedZero", [](auto& p) { p.set_fixed_bits(0); }, "precision.fixed_bits"},
        BadPolicy{"FixedSeven", [](auto& p) { p.set_fixed_bits(7); }, "precision.fixed_bits"},
        BadPolicy{"FixedHuge", [](auto& p) { p.set_fixed_bits(UINT32_MAX); }, "precision.fixed_bits"},
        BadPolicy{"FixedWraps", [](auto& p) { p.set_fixed_bits(0x80000003U); }, "precision.fixed_bits"},
        BadPolicy{"FixedWithMin", [](auto& p) { p.set_fixed_bits(4), p.set_min_bits(3); }, "precision.min_bits"},
        BadPolicy{"FixedWithMax", [](auto& p) { p.set_fixed_bits(4), p.set_max_bits(8); }, "precision.max_bits"},
        BadPolicy{"EmptyName", [](auto& p) { p.set_named_plan(""); }, "precision.named_plan"},
        BadPolicy{"NameWithMin", [](auto& p) { p.set_named_plan("uniform-4"), p.set_min_bits(3); },
                  "precision.min_bits"},
        BadPolicy{"EmptyPlan", [](auto& p) { p.mutable_layer_group_plan(); }, "precision.layer_group_plan.bits"},
        BadPolicy{"ShortPlan", [](auto& p) { p.mutable_layer_group_plan()->add_bits(4); },
                  "precision.layer_group_plan.bits"},
        BadPolicy{"PlanOf16",
                  [](auto& p) {
                    for (int i = 0; i < kGroups; ++i) {
                      p.mutable_layer_group_plan()->add_bits(i == 4 ? 16 : 8);
                    }
                  },
                  "precision.layer_group_plan.bits[4]"},
        BadPolicy{"MinSeven", [](auto& p) { p.set_min_bits(7); }, "precision.min_bits"},
        BadPolicy{"MinZero", [](auto& p) { p.mutable_random(), p.set_min_bits(0); }, "precision.min_bits"},
        BadPolicy{"MaxSixteen", [](auto& p) { p.mutable_position(), p.set_max_bits(16); }, "precision.max_bits"},
        BadPolicy{"MaxBelowMin", [](auto& p) { p.set_min_bits(6), p.set_max_bits(4); }, "precision.max_bits"},
        BadPolicy{"WeightZero", [](auto& p) { p.mutable_dynamic()->set_pple_weight(0); },
                  "precision.dynamic.pple_weight"},
        BadPolicy{"WeightAboveOne", [](auto& p) { p.mutable_dynamic()->set_pple_weight(1.01); },
                  "precision.dynamic.pple_weight"},
        BadPolicy{"WeightNan", [](auto& p) { p.mutable_dynamic()->set_pple_weight(kNan); },
                  "precision.dynamic.pple_weight"},
        BadPolicy{"EntropyZero", [](auto& p) { p.mutable_dynamic()->set_entropy_high_nats(0); },
                  "precision.dynamic.entropy_high_nats"},
        BadPolicy{"EntropyHigh", [](auto& p) { p.mutable_dynamic()->set_entropy_high_nats(20.5); },
                  "precision.dynamic.entropy_high_nats"},
        BadPolicy{"EntropyNan", [](auto& p) { p.mutable_dynamic()->set_entropy_high_nats(kNan); },
                  "precision.dynamic.entropy_high_nats"},
        BadPolicy{"HysteresisNegative", [](auto& p) { p.mutable_dynamic()->set_hysteresis_levels(-0.1); },
                  "precision.dynamic.hysteresis_levels"},
        BadPolicy{"HysteresisHigh", [](auto& p) { p.mutable_dynamic()->set_hysteresis_levels(4.1); },
                  "precision.dynamic.hysteresis_levels"},
        BadPolicy{"HysteresisNan", [](auto& p) { p.mutable_dynamic()->set_hysteresis_levels(kNan); },
                  "precision.dynamic.hysteresis_levels"},
        BadPolicy{"NoTokensPerLevel", [](auto& p) { p.mutable_position()->set_tokens_per_level(0); },
                  "precision.position.tokens_per_level"}),
    [](const auto& param_info) { return param_info.param.name; });

TEST(PolicyContextTest, ACalibratedModelHasItsRungs) {
  const LayerGroups groups(TestConfig(), 32, Dtype::kF32);
  Calibration calibration = TestCalibration();
  calibration.rungs[1].plan.bits = {3, 4, 4, 3, 4, 4, 3, 4, 3};
  const PolicyContext context = MakePolicyContext(groups, false, calibration, 1);
  EXPECT_TRUE(context.ladder.calibrated);
  ASSERT_EQ(context.ladder.levels.size(), 5U);
  EXPECT_EQ(context.ladder.levels[1], calibration.rungs[1].plan);
  EXPECT_EQ(context.calibrated->requirement, calibration.requirements[1]);
  v1::PrecisionPolicy request;
  request.set_named_plan("rung-1");
  const auto resolved = MakePolicy(request, context, 1);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->policy->Next(1), calibration.rungs[1].plan);
  EXPECT_FALSE(MakePolicyContext(groups, false, std::nullopt, 1).ladder.calibrated);
  EXPECT_FALSE(MakePolicy(request, MakePolicyContext(groups, false, std::nullopt, 1), 1).ok());
}

}  // namespace
}  // namespace flexquant::controller
