// What steps cost, learned from steps.

#include "controller/work_times.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "tests/controller/test_model.h"

namespace flexquant::controller {
namespace {

constexpr double kSecondsPerByte = 1 / 20e9;
constexpr double kSecondsPerProduct = 1 / 300e9;

absl::Duration TimeOf(const StepWork& work, double factor = 1) {
  return absl::Seconds(factor * (kSecondsPerByte * work.bytes + kSecondsPerProduct * work.products));
}

TEST(WorkTimesTest, LearnsWhatAByteAndAProductTake) {
  WorkTimes cost;
  const StepWork probe = {50e6, 3e9};
  EXPECT_EQ(cost.Of(probe), 50e6);  // nothing known: bytes decide
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> noise(0.8, 1.2);
  for (int i = 0; i < 3000; ++i) {
    const StepWork work = {100e6, 1e8 * static_cast<double>(1 + random() % 60)};
    // One step in twenty waits for other work of the machine.
    cost.Observe(work, TimeOf(work, i % 20 == 0 ? 5 : noise(random)));
  }
  EXPECT_TRUE(cost.known());
  EXPECT_NEAR(cost.Of(probe) / absl::ToDoubleSeconds(TimeOf(probe)), 1, 0.1);
}

TEST(WorkTimesTest, FollowsAnExecutorThatBecomesFaster) {
  WorkTimes cost;
  const auto observe = [&](double factor) {
    for (int i = 0; i < 5000; ++i) {
      const StepWork work = {100e6, i % 2 == 0 ? 2e8 : 5e9};
      cost.Observe(work, TimeOf(work, factor));
    }
  };
  observe(4);
  observe(1);
  EXPECT_NEAR(cost.Of({0, 1e9}) / absl::ToDoubleSeconds(TimeOf({0, 1e9})), 1, 0.1);
}

TEST(WorkTimesTest, StepsThatAreAllAlikeTeachNothing) {
  WorkTimes cost;
  for (int i = 0; i < 1000; ++i) {
    cost.Observe({100e6, 2e8}, absl::Milliseconds(5));
  }
  EXPECT_FALSE(cost.known());
}

TEST(WorkTimesTest, NothingCostsLessThanNothing) {
  WorkTimes by_bytes;
  WorkTimes by_products;
  for (int i = 0; i < 1000; ++i) {
    // More products, yet faster; and more bytes, yet faster.
    by_bytes.Observe({100e6, i % 2 == 0 ? 1e8 : 4e9}, absl::Milliseconds(i % 2 == 0 ? 5 : 4));
    by_products.Observe({i % 2 == 0 ? 10e6 : 100e6, 4e9}, absl::Milliseconds(i % 2 == 0 ? 5 : 4));
  }
  EXPECT_EQ(by_bytes.Of({0, 1e9}), 0);
  EXPECT_GT(by_bytes.Of({1e6, 0}), 0);
  EXPECT_EQ(by_products.Of({1e6, 0}), 0);
  EXPECT_GT(by_products.Of({0, 1e9}), 0);
}

TEST(WorkTimesTest, TimesThatCannotBeRightAreIgnored) {
  WorkTimes cost;
  for (int i = 0; i < 1000; ++i) {
    for (const absl::Duration time :
         {absl::ZeroDuration(), -absl::Seconds(1), absl::Hours(200), absl::InfiniteDuration()}) {
      cost.Observe({1e6 * i, 1e8}, time);
    }
    cost.Observe({0, 1e8}, absl::Seconds(1));
  }
  EXPECT_FALSE(cost.known());
}

TEST(WorkTimesTest, WorkIsWhatTheExecutorDoes) {
  const LayerGroups groups(TestConfig(), 32, Dtype::kF32);
  const int count = groups.count();
  SequenceStep decode;
  decode.plan = PrecisionPlan::Uniform(5, count);
  decode.sample = true;
  SequenceStep prefill;
  prefill.plan = PrecisionPlan::Uniform(8, count);
  prefill.token_ids = {1, 2, 3};
  const double head = static_cast<double>(groups.num_weights().back());

  const StepWork two_decodes = WorkOf(groups, {decode, decode}, false);
  EXPECT_EQ(two_decodes.bytes, static_cast<double>(groups.BytesRead(decode.plan)));
  EXPECT_EQ(two_decodes.products, 2 * groups.Products(decode.plan));
  EXPECT_EQ(groups.Products(prefill.plan), 2 * groups.Products(decode.plan));

  // Two widths are read, and the head only where a token is sampled.
  const StepWork mixed = WorkOf(groups, {decode, prefill}, false);
  EXPECT_EQ(mixed.bytes, static_cast<double>(groups.BytesRead(decode.plan) + groups.BytesRead(prefill.plan) -
                                             groups.BytesRead(count - 1, 8)));
  EXPECT_EQ(mixed.products, groups.Products(decode.plan) + 3 * (groups.Products(prefill.plan) - 2 * head));
  prefill.sample = true;
  EXPECT_EQ(WorkOf(groups, {prefill}, false).products, 3 * groups.Products(prefill.plan) - 2 * 2 * head);
  // Prompts of 8-bit activations: one row a token, but two for the head.
  EXPECT_EQ(WorkOf(groups, {prefill}, true).products, 3 * groups.Products(decode.plan) - (3 - 2) * head);
}

}  // namespace
}  // namespace flexquant::controller
