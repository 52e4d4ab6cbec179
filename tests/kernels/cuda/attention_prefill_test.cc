#include "kernels/cuda/attention_prefill.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/half.h"
#include "kernels/cuda/activation_blocks.h"
#include "tests/kernels/cuda/attention_calls.h"
#include "tests/kernels/cuda/cuda_backend.h"
#include "tests/kernels/cuda/device_buffer.h"
#include "tests/kernels/cuda/device_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant::cuda {
namespace {

using testing::AttentionInput;
using testing::DeviceBuffer;
using testing::MakeAttentionShape;
using testing::PagedCache;
using testing::PrefillAttention;

class AttentionPrefillTest : public testing::DeviceTest {
 protected:
  // Halves, in rows and in blocks, are the floats rounded; blocks have zeros after the last column.
  void ExpectHalves(const AttentionShape& shape, const std::vector<int64_t>& starts,
                    const std::vector<int64_t>& counts) {
    SCOPED_TRACE(::testing::Message() << shape.num_heads << " heads, " << shape.num_kv_heads << " kv heads of "
                                      << shape.head_dim << ", blocks of " << shape.block_tokens);
    std::vector<int64_t> lengths;
    int64_t all = 0;
    for (size_t i = 0; i < starts.size(); ++i) {
      lengths.push_back(starts[i] + counts[i]);
      all += counts[i];
    }
    const PagedCache cache(shape, lengths, 7);
    const AttentionInput input{shape, &cache, testing::RandomFloats(all * shape.q_stride, 8), starts, counts};
    std::vector<uint16_t> want;
    for (const float x : testing::MakeCudaBackend()->AttentionPrefill(input)) {
      want.push_back(FloatToHalf(x));
    }
    PrefillAttention call(input);
    DeviceBuffer<uint16_t> in_rows(want.size());
    call.params().out_half = in_rows.data();
    ASSERT_EQ(LaunchAttentionPrefill(call.params(), nullptr), cudaSuccess);
    EXPECT_EQ(in_rows.Download(), want);

    const int64_t cols = shape.out_stride;
    const int64_t block_rows = ActivationBlockRows(call.params().max_rows);
    DeviceBuffer<uint16_t> in_blocks(BlockedActivations(call.params().max_rows, cols));
    in_blocks.Fill(0x7F);
    call.params().out_half = in_blocks.data();
    call.params().out_block_rows = block_rows;
    ASSERT_EQ(LaunchAttentionPrefill(call.params(), nullptr), cudaSuccess);
    const auto blocks = in_blocks.Download();
    for (int64_t row = 0; row < call.rows(); ++row) {
      for (int64_t col = 0; col < CeilDiv(cols, kActivationBlockCols) * kActivationBlockCols; ++col) {
        const uint16_t got = blocks[static_cast<size_t>(ActivationPair(block_rows, row, col) + col % 2)];
        ASSERT_EQ(got, col < cols ? want[static_cast<size_t>(row * cols + col)] : 0) << row << ", " << col;
      }
    }
  }
};

TEST_F(AttentionPrefillTest, HalvesInRowsAndInBlocks) {
  for (const int64_t head_dim : {64, 80, 96, 128, 256}) {
    ExpectHalves(MakeAttentionShape(4, 1, head_dim, 16, 90), {0, 150}, {140, 129});
  }
  ExpectHalves(MakeAttentionShape(2, 1, 100, 16, 20), {10}, {33});
  ExpectHalves(MakeAttentionShape(3, 1, 80, 16, 0), {5}, {70});
  ExpectHalves(MakeAttentionShape(3, 1, 20, 16, 0), {0}, {9});
}

}  // namespace
}  // namespace flexquant::cuda
