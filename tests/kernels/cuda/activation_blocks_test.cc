#include "kernels/cuda/activation_blocks.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/nested_matrix.h"
#include "kernels/cuda/elementwise.h"
#include "tests/kernels/cuda/device_buffer.h"
#include "tests/kernels/cuda/device_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant::cuda {
namespace {

using testing::DeviceBuffer;
using testing::RandomFloats;

class ActivationBlocksTest : public testing::DeviceTest {};

// Halves in blocks, put back in rows; what no column belongs to must be zero.
std::vector<uint16_t> FromBlocks(const std::vector<uint16_t>& blocks, int64_t rows, int64_t cols) {
  const int64_t block_rows = ActivationBlockRows(rows);
  std::vector<uint16_t> halves;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < CeilDiv(cols, kActivationBlockCols) * kActivationBlockCols; ++col) {
      const uint16_t half = blocks[static_cast<size_t>(ActivationPair(block_rows, row, col) + col % 2)];
      if (col < cols) {
        halves.push_back(half);
      } else {
        EXPECT_EQ(half, 0) << "row " << row << ", after the last column";
      }
    }
  }
  return halves;
}

TEST_F(ActivationBlocksTest, HoldTheSameHalvesAsRows) {
  for (const int64_t n : {1, 7, 64, 100, 288, 4096, 14336, 16384 + 70}) {
    const int rows = 11;
    auto x = RandomFloats(rows * 2 * n, 1, 3.0F);
    for (int64_t i = 0; i < 2 * n; ++i) {
      x[static_cast<size_t>(i)] *= 1e8F;
    }
    const DeviceBuffer<float> d_x(x);
    const DeviceBuffer<float> weight(RandomFloats(n, 2));
    const auto run = [&](int what, const RowOutput& out) {
      const RmsNormParams norm{d_x.data(), 2 * n, weight.data(), 1e-5F, n, out, nullptr, rows};
      const SiluMulParams silu{d_x.data(), 2 * n, nullptr, n, out, nullptr, rows};
      const ConvertParams convert{d_x.data(), 2 * n, n, out, nullptr, rows};
      ASSERT_EQ(what == 0   ? LaunchRmsNorm(norm, nullptr)
                : what == 1 ? LaunchSiluMul(silu, nullptr)
                            : LaunchConvert(convert, nullptr),
                cudaSuccess);
    };
    for (const int what : {0, 1, 2}) {
      const DeviceBuffer<uint16_t> in_rows(static_cast<size_t>(rows * n));
      const DeviceBuffer<uint16_t> in_blocks(BlockedActivations(rows, n));
      const DeviceBuffer<float> scale(rows);
      const DeviceBuffer<float> scale_of_blocks(rows);
      run(what, {nullptr, in_rows.data(), scale.data(), n});
      run(what, {nullptr, in_blocks.data(), scale_of_blocks.data(), 0, ActivationBlockRows(rows)});
      EXPECT_EQ(FromBlocks(in_blocks.Download(), rows, n), in_rows.Download()) << n << " columns, " << what;
      EXPECT_EQ(scale_of_blocks.Download(), scale.Download());
    }
  }
}

}  // namespace
}  // namespace flexquant::cuda
