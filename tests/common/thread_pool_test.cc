#include "common/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace flexquant {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, RunCallsEveryThreadOnce) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 200; ++round) {
    std::vector<std::atomic<int>> calls(static_cast<size_t>(pool.num_threads()));
    pool.Run([&](int thread) { calls[static_cast<size_t>(thread)].fetch_add(1); });
    for (const auto& count : calls) {
      ASSERT_EQ(count.load(), 1);
    }
  }
}

TEST_P(ThreadPoolTest, ParallelForCoversEachIndexOnce) {
  ThreadPool pool(GetParam());
  for (const int64_t count : {0, 1, 2, 3, 7, 1000}) {
    std::vector<std::atomic<int>> seen(static_cast<size_t>(count));
    pool.ParallelFor(count, [&](int64_t begin, int64_t end, int /*thread*/) {
      EXPECT_LT(begin, end);
      for (int64_t i = begin; i < end; ++i) {
        seen[static_cast<size_t>(i)].fetch_add(1);
      }
    });
    for (const auto& times : seen) {
      ASSERT_EQ(times.load(), 1);
    }
  }
}

TEST_P(ThreadPoolTest, ParallelChunksCoverEachIndexOnce) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 300; ++round) {
    for (const int64_t count : {0, 1, 5, 64}) {
      for (const int64_t chunk : {1, 3, 64}) {
        std::vector<std::atomic<int>> seen(static_cast<size_t>(count));
        pool.ParallelChunks(count, chunk, [&](int64_t begin, int64_t end, int thread) {
          EXPECT_LT(thread, pool.num_threads());
          EXPECT_LE(end - begin, pool.num_threads() == 1 ? count : chunk);
          for (int64_t i = begin; i < end; ++i) {
            seen[static_cast<size_t>(i)].fetch_add(1);
          }
        });
        for (const auto& times : seen) {
          ASSERT_EQ(times.load(), 1);
        }
      }
    }
    // Regions of both kinds in turn.
    std::atomic<int> calls{0};
    pool.Run([&](int /*thread*/) { calls.fetch_add(1); });
    ASSERT_EQ(calls.load(), pool.num_threads());
  }
}

// Every thread takes its own share in order, and others' only when that is used up.
TEST_P(ThreadPoolTest, ThreadsTakeTheirOwnShareFirst) {
  ThreadPool pool(GetParam());
  for (const int64_t count : {2, 7, 64}) {
    constexpr int64_t kChunk = 2;
    EXPECT_EQ(pool.ShareBegin(count, kChunk, 0), 0);
    EXPECT_EQ(pool.ShareBegin(count, kChunk, pool.num_threads()), count);
    const int64_t second = pool.ShareBegin(count, kChunk, 1);
    EXPECT_TRUE(second % kChunk == 0 || second == count) << second;
    std::vector<std::vector<int64_t>> begins(static_cast<size_t>(pool.num_threads()));
    pool.ParallelChunks(count, kChunk, [&](int64_t begin, int64_t /*end*/, int thread) {
      begins[static_cast<size_t>(thread)].push_back(begin);
    });
    for (int thread = 0; thread < pool.num_threads(); ++thread) {
      bool others = false;
      size_t jumps = 0;  // from the last share to the first
      int64_t before = 0;
      for (const int64_t begin : begins[static_cast<size_t>(thread)]) {
        const bool own =
            begin >= pool.ShareBegin(count, kChunk, thread) && begin < pool.ShareBegin(count, kChunk, thread + 1);
        EXPECT_FALSE(own && others) << "thread " << thread << " of " << count << " at " << begin;
        others = others || !own;
        jumps += begin < before ? 1 : 0;
        before = begin;
      }
      EXPECT_LE(jumps, 1U) << "thread " << thread << " of " << count;
    }
  }
}

// Threads without a chunk are offered waiting work, turn by turn from 0 in every region.
TEST_P(ThreadPoolTest, ThreadsThatWaitAreOfferedOtherWork) {
  constexpr int64_t kTurns = 3;
  std::atomic<int> offered{0};
  std::vector<std::atomic<int64_t>> next(static_cast<size_t>(GetParam()));
  ThreadPool pool(GetParam(), {}, [&](int thread, int64_t turn) {
    const int64_t expected = next[static_cast<size_t>(thread)].exchange(turn + 1);
    EXPECT_TRUE(turn == expected || turn == 0) << turn << " behind " << expected - 1;
    offered.fetch_add(1);
    return turn + 1 < kTurns;
  });
  for (int round = 0; round < 200; ++round) {
    const int before = offered.load();
    std::vector<std::atomic<int>> seen(2);
    pool.ParallelChunks(2, 1, [&](int64_t begin, int64_t /*end*/, int /*thread*/) {
      seen[static_cast<size_t>(begin)].fetch_add(1);
      // Other threads may miss the region.
      for (int i = 0; pool.num_threads() > 1 && begin == 0 && offered.load() == before && i < 1000; ++i) {
        std::this_thread::yield();
      }
    });
    if (pool.num_threads() > 1) {
      EXPECT_EQ(seen[1].load(), 1);
    }
    EXPECT_EQ(seen[0].load(), 1);
  }
  EXPECT_EQ(offered.load() > 0, pool.num_threads() > 1);
}

// Workers go on with it behind a region, until it says that there is nothing more, and never begin again.
TEST_P(ThreadPoolTest, WorkersGoOnWithWaitingWorkBehindARegion) {
  constexpr int64_t kTurns = 1000;
  std::atomic<int64_t> most{0};
  std::atomic<int> ended{0};
  {
    ThreadPool pool(GetParam(), {}, [&](int thread, int64_t turn) {
      EXPECT_LT(turn, kTurns + 1);  // once more behind the region if it said so inside it
      if (thread > 0 && turn > most.load()) {
        most.store(turn);
      }
      ended.fetch_add(thread > 0 && turn + 1 == kTurns ? 1 : 0);  // the caller's turns end with the region
      return turn + 1 < kTurns;
    });
    for (int round = 0; round < 1000 && pool.num_threads() > 1 && ended.load() == 0; ++round) {
      std::atomic<bool> joined{false};
      pool.ParallelChunks(64, 1, [&](int64_t, int64_t, int thread) {
        joined = joined || thread > 0;
        while (!joined) {  // a region of nothing would be over before a worker is there
          std::this_thread::yield();
        }
      });
      for (int i = 0; ended.load() == 0 && i < 1000; ++i) {
        std::this_thread::yield();
      }
    }
  }
  EXPECT_EQ(most.load() >= kTurns - 1, GetParam() > 1);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

TEST(ThreadPoolTest, AtLeastOneThread) {
  EXPECT_EQ(ThreadPool(0).num_threads(), 1);
  EXPECT_GE(DefaultNumThreads(), 1);
}

TEST(ThreadPoolTest, PinnedThreadsStayOnTheirProcessors) {
  const std::vector<int> cpus = PhysicalCpus();
  ASSERT_FALSE(cpus.empty());
  EXPECT_GE(static_cast<int>(cpus.size()), DefaultNumThreads());
  std::vector<int> reversed(cpus.rbegin(), cpus.rend());
  // In a thread of its own, which is pinned, too.
  std::thread([&] {
    ThreadPool pool(static_cast<int>(reversed.size()), reversed);
    std::vector<int> found(reversed.size(), -1);
    pool.Run([&](int thread) { found[static_cast<size_t>(thread)] = sched_getcpu(); });
    EXPECT_EQ(found, reversed);
  }).join();
  EXPECT_EQ(PhysicalCpus(), cpus);
}

TEST(ThreadPoolTest, QuotaOfAContainerIsInWholeProcessors) {
  const std::string path = ::testing::TempDir() + "/flexquant_cpu_max_" + std::to_string(getpid());
  const auto quota = [&](const std::string& text) {
    std::ofstream(path) << text;
    return CpuQuota(path);
  };
  EXPECT_EQ(quota("max 100000\n"), std::nullopt);
  EXPECT_EQ(quota("200000 100000\n"), 2);
  EXPECT_EQ(quota("350000 100000\n"), 3);
  EXPECT_EQ(quota("50000 100000\n"), 1);
  EXPECT_EQ(quota("-1 100000\n"), std::nullopt);
  EXPECT_EQ(quota(""), std::nullopt);
  EXPECT_EQ(CpuQuota(path + ".absent"), std::nullopt);
}

}  // namespace
}  // namespace flexquant
