#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "common/precision.h"
#include "kernels/cuda/nested_gemv.h"
#include "tests/kernels/compare.h"
#include "tests/kernels/cuda/device_matrix.h"
#include "tests/kernels/cuda/linear.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using cuda::GemvEpilogue;
using cuda::GemvParams;
using testing::Bits;
using testing::CheckCuda;
using testing::CudaGemvTest;
using testing::DeviceBuffer;
using testing::kUntouched;
using testing::Linear;
using testing::RandomFloats;
using testing::RandomMatrix;

TEST_F(CudaGemvTest, Epilogues) {
  for (const int64_t half : {16, 20, 172, 1300}) {
    const RandomMatrix matrix(2 * half, half == 172 ? 2340 : 576, 64, 12);
    Linear plain(matrix.view(), 13);
    Linear paired(matrix.view(), 13, /*paired=*/true);
    const auto bias = RandomFloats(2 * half, 14);
    const DeviceBuffer<float> device_bias(bias);
    for (const bool portable : paths_) {
      for (const int m : {1, 2, 6, 16, 30, 35, 64}) {
        plain.params().portable = paired.params().portable = portable;
        plain.params().bias = paired.params().bias = nullptr;
        plain.params().epilogue = paired.params().epilogue = GemvEpilogue::kStore;
        const auto y = plain.RunUniform(0, m, 5);
        ASSERT_EQ(Bits(paired.RunUniform(0, m, 5)), Bits(y));
        plain.params().bias = paired.params().bias = device_bias.data();
        plain.params().epilogue = GemvEpilogue::kAdd;
        const auto initial = RandomFloats(m * 2 * half, 15);
        const auto added = plain.Run(0, std::vector<uint8_t>(static_cast<size_t>(m), 5), initial);
        paired.params().epilogue = GemvEpilogue::kSiluMul;
        const auto gated = paired.RunUniform(0, m, 5);
        for (int64_t t = 0; t < m; ++t) {
          for (int64_t n = 0; n < 2 * half; ++n) {
            const auto at = static_cast<size_t>(t * 2 * half + n);
            ASSERT_EQ(added[at], initial[at] + (y[at] + bias[static_cast<size_t>(n)]));
          }
          for (int64_t n = 0; n < half; ++n) {
            const auto at = static_cast<size_t>(t * 2 * half + n);
            const double gate = static_cast<double>(y[at] + bias[static_cast<size_t>(n)]);
            const double up =
                static_cast<double>(y[at + static_cast<size_t>(half)] + bias[static_cast<size_t>(half + n)]);
            const double expected = gate / (1.0 + std::exp(-gate)) * up;
            ASSERT_NEAR(gated[static_cast<size_t>(t * half + n)], expected, 1e-6 * std::fabs(expected) + 1e-30);
          }
        }
      }
    }
  }
}

TEST_F(CudaGemvTest, OnlyValidRowsAreComputed) {
  for (const int64_t cols : {576, 2340}) {
    const RandomMatrix matrix(40, cols, 64, 22);
    Linear linear(matrix.view(), 23);
    for (const bool portable : paths_) {
      linear.params().portable = portable;
      for (const int m : {1, 2, 8, 16, 32, 40, 64}) {
        linear.params().valid_rows = nullptr;
        const auto all = linear.RunUniform(0, m, 4);
        for (const int valid : {0, 1, m / 2, m - 1, m}) {
          const DeviceBuffer<int32_t> count(std::vector<int32_t>{valid});
          linear.params().valid_rows = count.data();
          std::vector<uint8_t> widths(static_cast<size_t>(m), 8);  // of the others: must not matter
          std::fill_n(widths.begin(), valid, uint8_t{4});
          const auto y = linear.Run(0, widths);
          for (size_t i = 0; i < y.size(); ++i) {
            ASSERT_EQ(y[i], static_cast<int>(i / 40) < valid ? all[i] : kUntouched) << m << " " << valid;
          }
        }
      }
    }
  }
}

// Two layers of (up, down) with a residual, captured once.
class Chain {
 public:
  Chain(Linear& up, Linear& down, int rows, bool portable)
      : rows_(rows), hidden_(size_t(rows * 576)), inner_(size_t(rows * 1536)), widths_(128) {
    GemvParams first = up.params();
    GemvParams second = down.params();
    first.portable = second.portable = portable;
    first.rows = second.rows = rows;
    first.x = second.y = hidden_.data();
    first.y = inner_.data();
    second.x = inner_.data();
    first.ldx = second.ldy = 576;
    first.ldy = second.ldx = 1536;
    first.epilogue = GemvEpilogue::kSiluMul;
    second.epilogue = GemvEpilogue::kAdd;
    second.workspace = first.workspace = down.params().workspace;
    CheckCuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
    CheckCuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture");
    for (int layer = 0; layer < 2; ++layer) {
      first.widths = second.widths = widths_.data() + 64 * layer;
      CheckCuda(cuda::LaunchNestedGemv(first, stream_), "up");
      CheckCuda(cuda::LaunchNestedGemv(second, stream_), "down");
    }
    cudaGraph_t graph = nullptr;
    CheckCuda(cudaStreamEndCapture(stream_, &graph), "end of capture");
    CheckCuda(cudaGraphInstantiate(&graph_, graph, 0), "instantiate");
    CheckCuda(cudaGraphDestroy(graph), "destroy");
  }
  ~Chain() {
    cudaGraphExecDestroy(graph_);
    cudaStreamDestroy(stream_);
  }

  std::vector<float> Replay(const std::vector<uint8_t>& widths) {
    hidden_.Upload(RandomFloats(rows_ * 576, 5));
    widths_.Upload(widths);
    CheckCuda(cudaGraphLaunch(graph_, stream_), "replay");
    CheckCuda(cudaStreamSynchronize(stream_), "replay");
    return hidden_.Download();
  }

 private:
  int rows_;
  DeviceBuffer<float> hidden_;
  DeviceBuffer<float> inner_;
  DeviceBuffer<uint8_t> widths_;
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t graph_ = nullptr;
};

TEST_F(CudaGemvTest, OneGraphServesEveryTable) {
  const RandomMatrix up_matrix(2 * 1536, 576, 64, 31);
  const RandomMatrix down_matrix(576, 1536, 64, 32);
  Linear up(up_matrix.view(), 33, /*paired=*/true);
  Linear down(down_matrix.view(), 34);
  std::mt19937 random(9);
  for (const int rows : {1, 2, 8, 16, 17, 33, 64}) {
    Chain held(up, down, rows, paths_.front());
    for (int round = 0; round < 6; ++round) {
      std::vector<uint8_t> widths(128);
      const uint8_t uniform = static_cast<uint8_t>(kPrecisions[static_cast<size_t>(round) % 5]);
      for (auto& width : widths) {
        width = round % 2 == 0 ? uniform : static_cast<uint8_t>(kPrecisions[random() % 5]);
      }
      const auto y = held.Replay(widths);
      ASSERT_EQ(Bits(y), Bits(Chain(up, down, rows, paths_.front()).Replay(widths))) << rows << " round " << round;
      ASSERT_EQ(Bits(y), Bits(Chain(up, down, rows, true).Replay(widths))) << rows << " round " << round;
    }
  }
}

}  // namespace
}  // namespace flexquant
