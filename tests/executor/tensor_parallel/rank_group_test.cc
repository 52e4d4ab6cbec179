#include "executor/tensor_parallel/rank_group.h"

#include <atomic>
#include <random>
#include <thread>

#include "absl/functional/function_ref.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flexquant::executor {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Minutes(5);

void ForRanks(int ranks, absl::FunctionRef<void(int)> body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&body, rank] { body(rank); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

std::vector<float> Numbers(int rank, size_t count) {
  std::mt19937 generator(static_cast<uint32_t>(rank) + 17);
  std::uniform_real_distribution<float> uniform(-3, 3);
  std::vector<float> numbers(count);
  for (float& number : numbers) {
    number = uniform(generator);
  }
  return numbers;
}

TEST(RankGroupTest, SumsInOrderOfRanks) {
  for (const int ranks : {1, 2, 3, 4, 7}) {
    for (const size_t count : {size_t{0}, size_t{1}, size_t{15}, size_t{17}, size_t{576}, size_t{10'007}}) {
      std::vector<float> expected = Numbers(0, count);
      for (int rank = 1; rank < ranks; ++rank) {
        const std::vector<float> more = Numbers(rank, count);
        for (size_t i = 0; i < count; ++i) {
          expected[i] += more[i];
        }
      }
      RankGroup group(ranks, kLong);
      ForRanks(ranks, [&](int rank) {
        std::vector<float> data = Numbers(rank, count);
        const absl::Status status = group.AllReduceSum(rank, absl::MakeSpan(data));
        EXPECT_TRUE(status.ok()) << status;
        EXPECT_EQ(data, expected) << ranks << " ranks, " << count << " numbers, rank " << rank;
      });
    }
  }
}

TEST(RankGroupTest, GathersAValueOfEachRank) {
  RankGroup group(5, kLong);
  ForRanks(5, [&](int rank) {
    for (uint64_t round = 0; round < 200; ++round) {
      const auto values = group.AllGather(rank, 100 * round + static_cast<uint64_t>(rank));
      ASSERT_TRUE(values.ok()) << values.status();
      ASSERT_EQ(values->size(), 5U);
      for (uint64_t r = 0; r < 5; ++r) {
        ASSERT_EQ((*values)[r], 100 * round + r);
      }
    }
  });
}

// Many operations of changing sizes by more ranks than the machine has cores; meant for the thread sanitizer.
TEST(RankGroupTest, ManyOperationsInARow) {
  constexpr int kRanks = 4;
  RankGroup group(kRanks, kLong);
  ForRanks(kRanks, [&](int rank) {
    for (size_t round = 0; round < 500; ++round) {
      std::vector<float> data(1 + round * 7 % 300, static_cast<float>(rank + 1));
      ASSERT_TRUE(group.AllReduceSum(rank, absl::MakeSpan(data)).ok());
      for (const float value : data) {
        ASSERT_EQ(value, 10.0F);
      }
      ASSERT_TRUE(group.Barrier(rank).ok());
    }
  });
}

TEST(RankGroupTest, AFailureWakesAllWithTheFirstStatus) {
  RankGroup group(4, kLong);
  std::atomic<int> waiting{0};
  ForRanks(4, [&](int rank) {
    if (rank == 2) {
      while (waiting.load() < 3) {
        std::this_thread::yield();
      }
      group.Abort(2, absl::DataLossError("its memory is gone"));
      group.Abort(2, absl::InternalError("a second failure"));
      return;
    }
    waiting.fetch_add(1);
    std::vector<float> data(100);
    const absl::Status status = group.AllReduceSum(rank, absl::MakeSpan(data));
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(status.message(), "rank 2 of 4 failed: its memory is gone");
  });
  EXPECT_EQ(group.Barrier(0).code(), absl::StatusCode::kDataLoss);
}

TEST(RankGroupTest, ARankThatDoesNotComeEndsTheGroup) {
  RankGroup group(3, absl::Milliseconds(20));
  ForRanks(3, [&](int rank) {
    if (rank == 1) {
      return;
    }
    const absl::Status status = group.Barrier(rank);
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1 of 3 failed: the other ranks waited 20ms"));
  });
}

}  // namespace
}  // namespace flexquant::executor
