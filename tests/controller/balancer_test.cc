// Which executor takes a request, and that none is left by all of them.

#include "controller/balancer.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "controller/batch.h"
#include "controller/policy/policy_factory.h"
#include "tests/controller/null_sink.h"
#include "tests/controller/test_model.h"

namespace flexquant::controller {
namespace {

constexpr uint32_t kBlockTokens = 16;

TEST(StepTimesTest, FindsWhatAStepAndATokenTake) {
  StepTimes times;
  EXPECT_TRUE(times.empty());
  for (int i = 0; i < 300; ++i) {
    const int tokens = 1 + (7 * i) % 64;
    times.Add(tokens, absl::Microseconds(5000 + 40 * tokens));
  }
  EXPECT_NEAR(times.cost().base, 0.005, 1e-5);
  EXPECT_NEAR(times.cost().token, 40e-6, 1e-6);
}

TEST(StepTimesTest, ForgetsHowFastAnExecutorWas) {
  StepTimes times;
  for (int i = 0; i < 300; ++i) {
    times.Add(1 + i % 2, absl::Milliseconds(1));
  }
  for (int i = 0; i < 500; ++i) {
    times.Add(1 + i % 2, absl::Milliseconds(10));
  }
  EXPECT_NEAR(times.cost().Seconds(1), 0.010, 1e-4);
}

TEST(StepTimesTest, WiderStepsAreNeverFree) {
  StepTimes times;
  for (int i = 0; i < 100; ++i) {
    times.Add(1 + i % 8, absl::Milliseconds(8 - i % 8));  // wider ones are faster
  }
  EXPECT_GT(times.cost().token, 0);
  times.Add(0, -absl::Seconds(1));
  EXPECT_GE(times.cost().base, 0);
}

TEST(PrefixOwnersTest, NamesTheLastWhoTookABeginning) {
  const auto keys = PrefixKeys("", PrecisionPlan::Uniform(8, 9), {1, 2, 3, 4, 5, 6}, 2);
  PrefixOwners owners(100);
  EXPECT_TRUE(owners.Find(keys).empty());
  owners.Add(absl::MakeConstSpan(keys).first(1), 7);
  owners.Add(keys, 8);
  std::map<uint32_t, uint32_t> found;
  for (const PrefixOwners::Owner& owner : owners.Find(keys)) {
    found[owner.executor] = owner.keys;
  }
  EXPECT_EQ(found, (std::map<uint32_t, uint32_t>{{7, 1}, {8, 3}}));
  for (uint32_t executor = 9; executor < 13; ++executor) {
    owners.Add(keys, executor);
  }
  EXPECT_EQ(owners.Find(keys).size(), PrefixOwners::kOwners);
}

TEST(PrefixOwnersTest, ForgetsWhatIsNotUsed) {
  PrefixOwners owners(10);
  const auto keys = [](uint32_t token) { return PrefixKeys("", PrecisionPlan::Uniform(8, 9), {token}, 1); };
  for (uint32_t token = 0; token < 100; ++token) {
    owners.Add(keys(token), 1);
    EXPECT_EQ(owners.Find(keys(0)).size(), 1U) << token;
  }
  EXPECT_TRUE(owners.Find(keys(50)).empty());
}

class BalancerTest : public ::testing::Test {
 protected:
  // An executor with the batch that its worker would have.
  struct Executor {
    uint32_t id = 0;
    Batch batch;
    std::optional<StepCost> cost;
    int woken = 0;
  };

  Executor& Add(std::optional<StepCost> cost, uint32_t kv_blocks = 1000, uint32_t max_sequences = 100) {
    Batch batch(kv_blocks, kBlockTokens, {max_sequences, 8192, 8192, 0});
    executors_.push_back(std::make_unique<Executor>(Executor{0, std::move(batch), cost}));
    Executor& executor = *executors_.back();
    executor.id = balancer_.Join(Load(executor), [&executor] { ++executor.woken; });
    return executor;
  }
  static ExecutorLoad Load(const Executor& executor) {
    ExecutorLoad load = executor.batch.Load();
    load.cost = executor.cost;
    return load;
  }
  // A prompt of `tokens`, that begins as every other one of the same `topic`.
  std::unique_ptr<Sequence> Make(uint32_t tokens, uint32_t topic, uint32_t max_tokens) {
    auto spec = std::make_unique<GenerationSpec>();
    spec->request_id = std::to_string(++last_id_);
    spec->prompt.assign(tokens, topic);
    spec->prompt.back() = static_cast<uint32_t>(last_id_);
    spec->max_tokens = max_tokens;
    spec->arrival = now_;
    auto resolved = MakePolicy({}, model_.policies, 1);
    EXPECT_TRUE(resolved.ok());
    spec->policy = std::move(resolved->policy);
    spec->prefill_plan = std::move(resolved->prefill_plan);
    auto active = active_->Add(last_id_, "", spec->request_id);
    return std::make_unique<Sequence>(std::move(spec), std::make_shared<NullSink>(),
                                      Sequence::Shared{*model_.tokenizer, *model_.layer_groups, 1}, active);
  }
  void Submit(uint32_t tokens, uint32_t topic, uint32_t max_tokens = 8) {
    auto sequence = Make(tokens, topic, max_tokens);
    balancer_.Offer(*sequence, now_);
    ASSERT_TRUE(queue_.Push(sequence).ok());
    balancer_.Queued(last_id_);
  }
  // A round of the worker, as far as it takes requests; how many it took.
  size_t Round(Executor& executor) {
    const size_t before = executor.batch.running().size();
    balancer_.Update(executor.id, Load(executor));
    look_again_ = executor.batch.Admit(queue_, now_, &balancer_, executor.id);
    balancer_.Update(executor.id, Load(executor));
    return executor.batch.running().size() - before;
  }
  // The prompts of all that run there are computed, and can be shared.
  void Compute(Executor& executor) {
    for (const SequenceStep& step : executor.batch.Compose(now_)) {
      Sequence* sequence = executor.batch.Find(step.sequence_id);
      sequence->Accept({'a', {0, 1, 1}, 0, {}}, std::nullopt, now_);
      executor.batch.Accepted(*sequence);
    }
    balancer_.Update(executor.id, Load(executor));
  }
  void TearDown() override {
    for (const auto& executor : executors_) {
      for (const auto& sequence : executor->batch.TakeAll()) {
        sequence->Discard();
      }
    }
    while (auto next = queue_.Pop(now_, [](const Sequence&) { return RequestQueue::Fit::kNow; })) {
      next->Discard();
    }
  }

  const ModelPackage model_ = TestModel();
  absl::Time now_ = absl::UnixEpoch();
  const std::shared_ptr<ActiveRequests> active_ = std::make_shared<ActiveRequests>();
  RequestQueue queue_{{}};
  Balancer balancer_;
  std::vector<std::unique_ptr<Executor>> executors_;
  absl::Time look_again_;
  uint64_t last_id_ = 0;
};

constexpr StepCost kFast = {0.010, 0.0005};

TEST_F(BalancerTest, ARequestIsOfferedToTheLeastLoadedAndLeftToIt) {
  Executor& first = Add(kFast);
  Executor& second = Add(kFast);
  Submit(40, 1);
  EXPECT_EQ(first.woken, 1 + 1);  // offered, and queued
  EXPECT_EQ(Round(first), 1U);
  Submit(40, 2);
  EXPECT_GT(second.woken, 0);
  EXPECT_EQ(Round(first), 0U);
  EXPECT_EQ(look_again_, now_ + Balancer::kOfferTime);
  EXPECT_EQ(Round(second), 1U);
}

TEST_F(BalancerTest, RequestsThatComeAtOnceAreSpread) {
  Executor& first = Add(kFast);
  Executor& second = Add(kFast);
  for (uint32_t i = 0; i < 10; ++i) {
    Submit(40, i + 1);
  }
  EXPECT_EQ(Round(first), 5U);
  EXPECT_EQ(Round(second), 5U);
}

TEST_F(BalancerTest, TheExecutorThatKnowsTheBeginningWinsUnlessItIsMoreLoadedThanThatSaves) {
  Executor& first = Add(kFast);
  Executor& second = Add(kFast);
  Submit(400, 1);
  ASSERT_EQ(Round(first), 1U);
  Compute(first);
  // 384 tokens are known there, and saved at 0.5 ms each: as much as 12 sequences more cost in 32 steps.
  int there = 0;
  for (; there < 20; ++there) {
    Submit(400, 1);
    if (Round(second) > 0) {
      break;
    }
    ASSERT_EQ(Round(first), 1U);
    EXPECT_EQ(first.batch.running().back()->kv_blocks().size(), 24U);  // found in the cache
    Compute(first);
  }
  EXPECT_GE(there, 8);
  EXPECT_LE(there, 14);
}

TEST_F(BalancerTest, ASmallExecutorNeverGetsWhatDoesNotFit) {
  Executor& small = Add(kFast, /*kv_blocks=*/4);
  Executor& large = Add(StepCost{0.1, 0.005});
  Submit(40, 1, /*max_tokens=*/100);  // 3 blocks now, 9 in the end
  EXPECT_EQ(Round(small), 0U);
  EXPECT_EQ(Round(large), 1U);
  now_ += absl::Hours(1);
  Submit(40, 2, /*max_tokens=*/100);
  now_ += absl::Hours(1);
  EXPECT_EQ(Round(small), 0U);
  EXPECT_EQ(Round(large), 1U);
  Submit(16, 3);  // fits both
  EXPECT_EQ(Round(small), 1U);
}

TEST_F(BalancerTest, OneThatIsNearlyFullIsTheLastChoice) {
  Executor& full = Add(kFast, /*kv_blocks=*/40);
  Executor& slow = Add(StepCost{0.1, 0.005}, /*kv_blocks=*/1000);
  Submit(35 * kBlockTokens, 1);
  ASSERT_EQ(Round(full), 1U);
  Compute(full);
  Submit(3 * kBlockTokens, 2);
  EXPECT_EQ(Round(full), 0U);
  EXPECT_EQ(Round(slow), 1U);
  balancer_.Leave(slow.id);
  Submit(3 * kBlockTokens, 3);
  EXPECT_EQ(Round(full), 1U);
}

TEST_F(BalancerTest, ASlowExecutorGetsLessAndAnUnknownOneItsShare) {
  // Little but the tokens' time, so that speed is throughput.
  Executor& fast = Add(StepCost{1e-5, 0.001});
  Executor& slow = Add(StepCost{4e-5, 0.004});
  Executor& unknown = Add(std::nullopt);
  for (uint32_t i = 0; i < 90; ++i) {
    Submit(16, i + 1);
    for (const auto& executor : executors_) {
      Round(*executor);
    }
  }
  const size_t slow_share = slow.batch.running().size();
  EXPECT_GE(slow_share, 5U);
  EXPECT_LE(slow_share, 15U);
  EXPECT_NEAR(static_cast<double>(fast.batch.running().size()), static_cast<double>(unknown.batch.running().size()), 3);
}

TEST_F(BalancerTest, OneThatOwesAResultForLongGetsNothingMore) {
  Executor& hanging = Add(kFast);
  Executor& slow = Add(StepCost{0.05, 0.001});
  ExecutorLoad load = Load(hanging);
  load.owes_since = now_ - absl::Seconds(20);
  balancer_.Update(hanging.id, load);
  Submit(16, 1);
  EXPECT_EQ(hanging.woken, 0);
  EXPECT_EQ(Round(slow), 1U);
}

TEST_F(BalancerTest, AnOfferThatIsNotTakenIsAnybodysSoon) {
  Executor& idle = Add(kFast);
  Executor& other = Add(StepCost{0.1, 0.01});
  Submit(16, 1);
  EXPECT_EQ(Round(other), 0U);
  const absl::Time again = look_again_;
  EXPECT_EQ(again, now_ + Balancer::kOfferTime);
  // It has not looked; when it has no room any more by then, the other one takes the request.
  ExecutorLoad full = Load(idle);
  full.available_kv_blocks = 0;
  balancer_.Update(idle.id, full);
  now_ = again;
  EXPECT_EQ(Round(other), 1U);
}

TEST_F(BalancerTest, AnExecutorThatLeavesFreesWhatItWasOffered) {
  Executor& leaving = Add(kFast);
  Executor& other = Add(StepCost{0.1, 0.01});
  Submit(16, 1);
  EXPECT_EQ(Round(other), 0U);
  balancer_.Leave(leaving.id);
  EXPECT_EQ(Round(other), 1U);
}

TEST_F(BalancerTest, AFullExecutorPassesItsOfferOn) {
  Executor& first = Add(kFast, /*kv_blocks=*/10);
  Executor& second = Add(StepCost{0.1, 0.01});
  Submit(16, 1);
  // What it said is not true any more when it looks.
  RequestQueue elsewhere({});
  auto large = Make(9 * kBlockTokens, 2, 1);
  ASSERT_TRUE(elsewhere.Push(large).ok());
  first.batch.Admit(elsewhere, now_);
  ASSERT_EQ(first.batch.Compose(now_).size(), 1U);
  EXPECT_EQ(second.woken, 0);
  EXPECT_EQ(Round(first), 0U);
  EXPECT_EQ(second.woken, 1);
  EXPECT_EQ(Round(second), 1U);
}

TEST_F(BalancerTest, NothingStarvesWhileAnyExecutorHasRoom) {
  // Few sequences each, and speeds that differ by far: all that is submitted is taken in turns of single rounds.
  Add(kFast, 1000, 2);
  Add(StepCost{1, 0.1}, 1000, 2);
  Add(StepCost{0.001, 0.0001}, 6, 2);
  for (uint32_t i = 0; i < 30; ++i) {
    Submit(i % 3 == 0 ? 200 : 20, 1 + i % 2);
  }
  size_t taken = 0;
  for (int round = 0; round < 200 && taken < 30; ++round) {
    now_ += absl::Milliseconds(1);
    Executor& executor = *executors_[static_cast<size_t>(round) % executors_.size()];
    taken += Round(executor);
    for (int i = 0; i < 10; ++i) {
      Compute(executor);
    }
    executor.batch.RemoveEnded();
  }
  EXPECT_EQ(taken, 30U);
  EXPECT_EQ(queue_.size(), 0U);
}

}  // namespace
}  // namespace flexquant::controller
