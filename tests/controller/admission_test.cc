// KV blocks, prefix keys and the queue.

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "controller/kv_blocks.h"
#include "controller/prefix_key.h"
#include "controller/request_queue.h"
#include "tests/controller/null_sink.h"
#include "tests/controller/test_model.h"

namespace flexquant::controller {
namespace {

PrecisionPlan Eights() { return PrecisionPlan::Uniform(8, 9); }

TEST(KvBlocksTest, RoundsUpToBlocks) {
  const KvBlocks kv(10, 4);
  EXPECT_EQ(kv.BlocksFor(0), 0U);
  EXPECT_EQ(kv.BlocksFor(1), 1U);
  EXPECT_EQ(kv.BlocksFor(4), 1U);
  EXPECT_EQ(kv.BlocksFor(5), 2U);
  EXPECT_EQ(kv.BlocksFor(UINT64_MAX), UINT32_MAX);
}

TEST(KvBlocksTest, GivesDistinctBlocksAndTakesThemBack) {
  KvBlocks kv(5, 4);
  const auto first = kv.Allocate(3);
  const auto second = kv.Allocate(2);
  ASSERT_TRUE(first.has_value() && second.has_value());
  std::set<uint32_t> all(first->begin(), first->end());
  all.insert(second->begin(), second->end());
  EXPECT_EQ(all, (std::set<uint32_t>{0, 1, 2, 3, 4}));
  EXPECT_FALSE(kv.Allocate(1).has_value());
  EXPECT_TRUE(kv.Allocate(0).has_value());
  kv.Release(*first);
  EXPECT_EQ(kv.num_available(), 3U);
  EXPECT_FALSE(kv.Allocate(4).has_value());
  EXPECT_EQ(kv.num_available(), 3U);
  EXPECT_EQ(*kv.Allocate(3), *first);
}

TEST(KvBlocksDeathTest, ReleasingTwiceIsABug) {
  KvBlocks kv(2, 4);
  const auto blocks = kv.Allocate(1);
  kv.Release(*blocks);
  EXPECT_DEATH(kv.Release(*blocks), "broken invariant");
}

TEST(KvBlocksTest, APrefixIsSharedWhileUsedAndKeptUntilItsBlocksAreNeeded) {
  KvBlocks kv(6, 2);
  const auto keys = PrefixKeys("", Eights(), {1, 2, 3, 4, 5}, 2);
  ASSERT_EQ(keys.size(), 2U);
  const auto blocks = *kv.Allocate(3);
  EXPECT_EQ(kv.KnownPrefix(keys), 0U);
  kv.Remember(keys[0], blocks[0]);
  kv.Remember(keys[1], blocks[1]);
  EXPECT_EQ(kv.UsePrefix(keys), (std::vector<uint32_t>{blocks[0], blocks[1]}));
  kv.Release(blocks);
  EXPECT_EQ(kv.num_available(), 4U);  // the prefix is still used once
  kv.Release({blocks[0], blocks[1]});
  EXPECT_EQ(kv.num_available(), 6U);
  EXPECT_EQ(kv.num_remembered_unused(), 2U);

  // Four are free without forgetting anything; the fifth costs the end of the prefix, not its beginning.
  const auto four = *kv.Allocate(4);
  EXPECT_EQ(kv.KnownPrefix(keys), 2U);
  const auto fifth = *kv.Allocate(1);
  EXPECT_EQ(fifth[0], blocks[1]);
  EXPECT_EQ(kv.KnownPrefix(keys), 1U);
  EXPECT_EQ(kv.UsePrefix(keys), (std::vector<uint32_t>{blocks[0]}));
  EXPECT_FALSE(kv.Allocate(1).has_value());
}

TEST(KvBlocksTest, TheLeastRecentlyUsedPrefixGoesFirst) {
  KvBlocks kv(2, 1);
  const auto a = PrefixKeys("", Eights(), {1}, 1);
  const auto b = PrefixKeys("", Eights(), {2}, 1);
  const auto blocks = *kv.Allocate(2);
  kv.Remember(a[0], blocks[0]);
  kv.Remember(b[0], blocks[1]);
  kv.Release({blocks[0]});
  kv.Release({blocks[1]});
  kv.Release(kv.UsePrefix(a));  // now b is the older one
  EXPECT_EQ(*kv.Allocate(1), (std::vector<uint32_t>{blocks[1]}));
  EXPECT_EQ(kv.KnownPrefix(a), 1U);
  EXPECT_EQ(kv.KnownPrefix(b), 0U);
}

TEST(PrefixKeyTest, DependsOnAllThatABlockHolds) {
  const auto keys = PrefixKeys("me", Eights(), {1, 2, 3, 4, 5, 6}, 2);
  ASSERT_EQ(keys.size(), 3U);
  EXPECT_EQ(keys, PrefixKeys("me", Eights(), {1, 2, 3, 4, 5, 6, 7}, 2));
  EXPECT_TRUE(PrefixKeys("me", Eights(), {1}, 2).empty());
  const auto other_beginning = PrefixKeys("me", Eights(), {9, 2, 3, 4, 5, 6}, 2);
  const auto other_tenant = PrefixKeys("you", Eights(), {1, 2, 3, 4, 5, 6}, 2);
  const auto other_plan = PrefixKeys("me", PrecisionPlan::Uniform(6, 9), {1, 2, 3, 4, 5, 6}, 2);
  for (size_t i = 0; i < keys.size(); ++i) {
    EXPECT_FALSE(keys[i] == other_beginning[i]);
    EXPECT_FALSE(keys[i] == other_tenant[i]);
    EXPECT_FALSE(keys[i] == other_plan[i]);
  }
}

class SilentSink final : public NullSink {
 public:
  void OnFailed(absl::Status status) override { failure = std::move(status); }
  absl::Status failure;
};

class RequestQueueTest : public ::testing::Test {
 protected:
  struct Ask {
    std::string tenant;
    int priority = 0;
    absl::Duration age;  // at Now()
    uint32_t prompt_tokens = 1;
  };

  static absl::Time Now() { return absl::UnixEpoch() + absl::Hours(1); }

  std::unique_ptr<Sequence> Make(const Ask& ask) {
    auto spec = std::make_unique<GenerationSpec>();
    spec->request_id = absl::StrCat(++last_id_);
    spec->tenant = ask.tenant;
    spec->priority = ask.priority;
    spec->arrival = Now() - ask.age;
    spec->prompt.assign(ask.prompt_tokens, 'x');
    spec->max_tokens = 1;
    auto active = active_->Add(last_id_, ask.tenant, spec->request_id);
    return std::make_unique<Sequence>(std::move(spec), std::make_shared<SilentSink>(),
                                      Sequence::Shared{*model_.tokenizer, *model_.layer_groups, 1}, std::move(active));
  }
  absl::Status Push(RequestQueue& queue, const Ask& ask) {
    auto sequence = Make(ask);
    const absl::Status status = queue.Push(sequence);
    if (!status.ok()) {
      sequence->Discard();
    }
    return status;
  }
  // Ids in the order in which they would be served.
  static std::vector<uint64_t> Order(RequestQueue& queue) {
    std::vector<uint64_t> order;
    while (auto next = queue.Pop(Now(), [](const Sequence&) { return RequestQueue::Fit::kNow; })) {
      order.push_back(next->id());
      next->Discard();
    }
    return order;
  }

  ModelPackage model_ = TestModel();
  std::shared_ptr<ActiveRequests> active_ = std::make_shared<ActiveRequests>();
  uint64_t last_id_ = 0;
};

TEST_F(RequestQueueTest, PriorityGoesFirstAndWaitingRaisesIt) {
  RequestQueue queue({.ageing = absl::Seconds(10)});
  ASSERT_TRUE(Push(queue, {"", 0, absl::Seconds(5)}).ok());
  ASSERT_TRUE(Push(queue, {"", 2, absl::Seconds(1)}).ok());
  ASSERT_TRUE(Push(queue, {"", 0, absl::Seconds(35)}).ok());  // has risen by three
  ASSERT_TRUE(Push(queue, {"", -1, absl::Seconds(6)}).ok());
  EXPECT_EQ(Order(queue), (std::vector<uint64_t>{3, 2, 1, 4}));
}

TEST_F(RequestQueueTest, TenantsTakeTurnsByTokensServed) {
  RequestQueue queue({});
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Push(queue, {"greedy", 0, absl::Seconds(9 - i), 10}).ok());
  }
  ASSERT_TRUE(Push(queue, {"modest", 0, absl::Seconds(2), 4}).ok());
  ASSERT_TRUE(Push(queue, {"modest", 0, absl::Seconds(1), 4}).ok());
  // greedy 10, modest 4, modest 8, greedy 20, greedy 30.
  EXPECT_EQ(Order(queue), (std::vector<uint64_t>{1, 4, 5, 2, 3}));
}

TEST_F(RequestQueueTest, ATenantThatPausedHasSavedNothing) {
  RequestQueue queue({});
  queue.Served("busy", 1000);
  ASSERT_TRUE(Push(queue, {"busy", 0, absl::Seconds(3), 10}).ok());
  ASSERT_TRUE(Push(queue, {"busy", 0, absl::Seconds(3), 10}).ok());
  ASSERT_TRUE(Push(queue, {"new", 0, absl::Seconds(2), 10}).ok());
  ASSERT_TRUE(Push(queue, {"new", 0, absl::Seconds(2), 10}).ok());
  ASSERT_TRUE(Push(queue, {"new", 0, absl::Seconds(2), 10}).ok());
  // Were the 1,000 tokens counted, all of the new one's would go first.
  EXPECT_EQ(Order(queue), (std::vector<uint64_t>{1, 3, 2, 4, 5}));
}

TEST_F(RequestQueueTest, IsBoundedByRequestsAndByTokens) {
  RequestQueue queue({.max_requests = 2, .max_tokens = 100});
  // One alone may wait whatever its size.
  EXPECT_TRUE(Push(queue, {"", 0, {}, 1000}).ok());
  const absl::Status too_many_tokens = Push(queue, {"", 0, {}, 1});
  EXPECT_EQ(too_many_tokens.code(), absl::StatusCode::kResourceExhausted);
  Order(queue);
  EXPECT_EQ(queue.tokens(), 0U);
  EXPECT_TRUE(Push(queue, {"", 0, {}, 40}).ok());
  EXPECT_TRUE(Push(queue, {"", 0, {}, 40}).ok());
  EXPECT_EQ(Push(queue, {"", 0, {}, 1}).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(queue.tokens(), 80U);
  EXPECT_EQ(Order(queue).size(), 2U);
}

TEST_F(RequestQueueTest, NobodyOvertakesOneThatDoesNotFitNowButOneThatNeverWillIsSkipped) {
  RequestQueue queue({});
  ASSERT_TRUE(Push(queue, {"", 0, absl::Seconds(2), 50}).ok());
  ASSERT_TRUE(Push(queue, {"", 0, absl::Seconds(1), 5}).ok());
  const auto pop = [&](RequestQueue::Fit large) {
    return queue.Pop(Now(), [&](const Sequence& sequence) {
      return sequence.known_tokens() > 10 ? large : RequestQueue::Fit::kNow;
    });
  };
  EXPECT_EQ(pop(RequestQueue::Fit::kNotNow), nullptr);
  auto small = pop(RequestQueue::Fit::kNever);
  ASSERT_NE(small, nullptr);
  EXPECT_EQ(small->id(), 2U);
  small->Discard();
  EXPECT_EQ(Order(queue), (std::vector<uint64_t>{1}));
}

}  // namespace
}  // namespace flexquant::controller
