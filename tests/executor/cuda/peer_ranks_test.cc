// Sums over ranks on one GPU, and on several if there are.

#include "executor/cuda/peer_ranks.h"

#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>

#include "common/thread_pool.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/cuda/device_test.h"

namespace flexquant::executor {
namespace {

using ::testing::HasSubstr;

class PeerRanksTest : public testing::DeviceTest {
 protected:
  // Ranks on the first `num_devices` devices in turn, each with a stream.
  struct Group {
    Group(int count, int num_devices, absl::Duration timeout = absl::Minutes(1))
        : group(count, absl::Minutes(1)),
          threads(count),
          peers(static_cast<size_t>(count)),
          streams(static_cast<size_t>(count)) {
      std::vector<int> devices;
      for (int rank = 0; rank < count; ++rank) {
        devices.push_back(rank % num_devices);
      }
      threads.Run([&](int rank) {
        const auto index = static_cast<size_t>(rank);
        ASSERT_EQ(cudaSetDevice(devices[index]), cudaSuccess);
        ASSERT_EQ(cudaStreamCreateWithFlags(&streams[index], cudaStreamNonBlocking), cudaSuccess);
        auto made = PeerRanks::Create(group, rank, devices, timeout);
        ASSERT_TRUE(made.ok()) << made.status();
        peers[index] = *std::move(made);
      });
    }
    ~Group() {
      for (cudaStream_t stream : streams) {
        cudaStreamSynchronize(stream);
        cudaStreamDestroy(stream);
      }
    }

    // The same buffer for all ranks.
    void Share(float* data) {
      threads.Run([&](int rank) { EXPECT_TRUE(peers[static_cast<size_t>(rank)]->Share(data).ok()); });
    }

    RankGroup group;
    ThreadPool threads;
    std::vector<std::unique_ptr<PeerRanks>> peers;
    std::vector<cudaStream_t> streams;
  };

  // One device, and all if there are more.
  static std::vector<int> NumbersOfDevices() {
    int devices = 0;
    EXPECT_EQ(cudaGetDeviceCount(&devices), cudaSuccess);
    return devices > 1 ? std::vector<int>{1, devices} : std::vector<int>{1};
  }

  static std::vector<float> Numbers(int rank, size_t count) {
    std::mt19937 generator(static_cast<uint32_t>(rank) + 3);
    std::uniform_real_distribution<float> uniform(-3, 3);
    std::vector<float> numbers(count);
    for (float& number : numbers) {
      number = uniform(generator);
    }
    return numbers;
  }

  static std::vector<float> Sum(int ranks, size_t count) {
    std::vector<float> sum = Numbers(0, count);
    for (int rank = 1; rank < ranks; ++rank) {
      const std::vector<float> more = Numbers(rank, count);
      for (size_t i = 0; i < count; ++i) {
        sum[i] += more[i];
      }
    }
    return sum;
  }

  static void ExpectSumsInOrder(int devices) {
    struct Case {
      int ranks, rows;
      int64_t cols;
    };
    // Odd columns; less than a thread's; many numbers, also with shares of unequal and odd sizes.
    for (const auto& [ranks, rows, cols] :
         {Case{2, 1, 4096}, {2, 64, 576}, {3, 5, 101}, {4, 1, 1}, {2, 2048, 4096}, {3, 131, 1001}, {3, 500, 576}}) {
      SCOPED_TRACE(::testing::Message() << ranks << " ranks, " << rows << " rows of " << cols << ", " << devices
                                        << " devices");
      Group all(ranks, devices);
      const auto count = static_cast<size_t>(rows * cols);
      const std::vector<float> expected = Sum(ranks, count);
      all.threads.Run([&, rows = rows, cols = cols](int rank) {
        const auto index = static_cast<size_t>(rank);
        const std::vector<float> own = Numbers(rank, count);
        auto device = AllocateDevice(count * sizeof(float), "numbers");
        ASSERT_TRUE(device.ok());
        ASSERT_TRUE(all.peers[index]->Share(device->as<float>()).ok());
        for (int again = 0; again < 3; ++again) {
          ASSERT_EQ(cudaMemcpy(device->as<void>(), own.data(), device->bytes(), cudaMemcpyHostToDevice), cudaSuccess);
          ASSERT_TRUE(all.group.Barrier(rank).ok());
          ASSERT_TRUE(all.peers[index]->LaunchSum(cols, nullptr, rows, all.streams[index]).ok());
          ASSERT_TRUE(all.group.Barrier(rank).ok());
          ASSERT_EQ(cudaStreamSynchronize(all.streams[index]), cudaSuccess);
          ASSERT_TRUE(all.peers[index]->Check().ok()) << all.peers[index]->Check();
          std::vector<float> found(count);
          ASSERT_EQ(cudaMemcpy(found.data(), device->as<void>(), device->bytes(), cudaMemcpyDeviceToHost), cudaSuccess);
          ASSERT_EQ(found, expected);
          ASSERT_TRUE(all.group.Barrier(rank).ok());
        }
      });
    }
  }

  // A graph of many sums; only the rows that the device's count names take part.
  static void ExpectSumsInAGraph(int devices) {
    constexpr int kRows = 8;
    constexpr int64_t kCols = 256;
    constexpr int kSums = 65;
    constexpr int kLaunches = 40;
    Group all(2, devices);
    std::array<double, 2> microseconds{};
    all.threads.Run([&](int rank) {
      const auto index = static_cast<size_t>(rank);
      auto data = AllocateDeviceZeroed(kRows * kCols * sizeof(float), "numbers");
      auto rows = AllocateDeviceZeroed(sizeof(int32_t), "rows");
      ASSERT_TRUE(data.ok() && rows.ok());
      ASSERT_TRUE(all.peers[index]->Share(data->as<float>()).ok());
      const int32_t valid = 5;
      ASSERT_EQ(cudaMemcpy(rows->as<void>(), &valid, sizeof(valid), cudaMemcpyHostToDevice), cudaSuccess);
      auto graph = CudaGraph::Capture(all.streams[index], [&] {
        for (int i = 0; i < kSums; ++i) {
          const absl::Status status =
              all.peers[index]->LaunchSum(kCols, rows->as<int32_t>(), kRows, all.streams[index]);
          if (!status.ok()) {
            return status;
          }
        }
        return absl::OkStatus();
      });
      ASSERT_TRUE(graph.ok()) << graph.status();
      ASSERT_EQ(cudaGraphUpload(graph->exec(), all.streams[index]), cudaSuccess);
      ASSERT_EQ(cudaStreamSynchronize(all.streams[index]), cudaSuccess);
      ASSERT_TRUE(all.group.Barrier(rank).ok());
      const auto begin = std::chrono::steady_clock::now();
      for (int launch = 0; launch < kLaunches; ++launch) {
        ASSERT_TRUE(graph->Launch(all.streams[index]).ok());
      }
      ASSERT_EQ(cudaStreamSynchronize(all.streams[index]), cudaSuccess);
      microseconds[index] =
          std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count() / kLaunches /
          kSums;
      ASSERT_TRUE(all.peers[index]->Check().ok()) << all.peers[index]->Check();
      // Zeros stay zeros; then one sum of ones doubles the valid rows 65 times.
      std::vector<float> ones(kRows * kCols, 1.0F);
      ASSERT_EQ(cudaMemcpy(data->as<void>(), ones.data(), data->bytes(), cudaMemcpyHostToDevice), cudaSuccess);
      ASSERT_TRUE(all.group.Barrier(rank).ok());
      ASSERT_TRUE(graph->Launch(all.streams[index]).ok());
      ASSERT_TRUE(all.group.Barrier(rank).ok());
      ASSERT_EQ(cudaStreamSynchronize(all.streams[index]), cudaSuccess);
      ASSERT_EQ(cudaMemcpy(ones.data(), data->as<void>(), data->bytes(), cudaMemcpyDeviceToHost), cudaSuccess);
      EXPECT_EQ(ones[valid * kCols - 1], std::ldexp(1.0F, kSums));
      EXPECT_EQ(ones[valid * kCols], 1.0F);
    });
    std::printf("a sum of %d rows of %ld over two ranks on %d devices: %.1f us\n", kRows, kCols, devices,
                microseconds[0]);
  }
};

TEST_F(PeerRanksTest, SumsInOrderOfRanks) {
  for (const int devices : NumbersOfDevices()) {
    ExpectSumsInOrder(devices);
  }
}

TEST_F(PeerRanksTest, SumsInACapturedGraph) {
  for (const int devices : NumbersOfDevices()) {
    ExpectSumsInAGraph(devices);
  }
}

TEST_F(PeerRanksTest, ARankThatDoesNotComeIsNamed) {
  Group all(2, 1, absl::Milliseconds(500));
  auto data = AllocateDeviceZeroed(64 * sizeof(float), "numbers");
  ASSERT_TRUE(data.ok());
  all.Share(data->as<float>());
  ASSERT_TRUE(all.peers[0]->LaunchSum(64, nullptr, 1, all.streams[0]).ok());
  ASSERT_EQ(cudaStreamSynchronize(all.streams[0]), cudaSuccess);
  const absl::Status status = all.peers[0]->Check();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("for rank 1"));
}

TEST_F(PeerRanksTest, AbortEndsTheWaiting) {
  Group all(2, 1, absl::Minutes(10));
  auto data = AllocateDeviceZeroed(64 * sizeof(float), "numbers");
  ASSERT_TRUE(data.ok());
  all.Share(data->as<float>());
  ASSERT_TRUE(all.peers[0]->LaunchSum(64, nullptr, 1, all.streams[0]).ok());
  EXPECT_EQ(cudaStreamQuery(all.streams[0]), cudaErrorNotReady);
  all.peers[1]->Abort();
  ASSERT_EQ(cudaStreamSynchronize(all.streams[0]), cudaSuccess);
  EXPECT_TRUE(all.peers[0]->Check().ok());
}

}  // namespace
}  // namespace flexquant::executor
