#include "kernels/cuda/attention_prefill.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cuda/activation_blocks.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda/device_buffer.h"
#include "tests/kernels/cuda/paged_cache.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant::cuda {
namespace {

using flexquant::testing::RandomFloats;
using testing::DeviceBuffer;
using testing::Error;
using testing::Model;
using testing::Sequences;
using testing::SetShape;
using testing::ShapeOf;

class AttentionPrefillTest : public testing::DeviceTest {
 protected:
  void ExpectPrefill(const Model& m, const std::vector<int>& starts, const std::vector<int>& counts, bool half) {
    SCOPED_TRACE(::testing::Message() << m.heads << " heads, " << m.kv_heads << " kv heads of " << m.head_dim
                                      << ", blocks of " << m.block_tokens << ", window " << m.window);
    std::vector<int> lengths;
    std::vector<int32_t> row_starts = {0};
    for (size_t i = 0; i < starts.size(); ++i) {
      lengths.push_back(starts[i] + counts[i]);
      row_starts.push_back(row_starts.back() + counts[i]);
    }
    const Sequences s(m, lengths, 7);
    const int64_t size = m.heads * m.head_dim;
    const auto q = RandomFloats((row_starts.back() + 3) * size, 8);
    const DeviceBuffer<float> d_q(q);
    DeviceBuffer<float> d_out(q.size());
    DeviceBuffer<uint16_t> d_half(q.size());
    d_out.Fill(0x7F);
    const DeviceBuffer<uint16_t> k(s.k);
    const DeviceBuffer<uint16_t> v(s.v);
    const DeviceBuffer<uint32_t> tables(s.tables);
    const DeviceBuffer<int32_t> d_starts(row_starts);
    const DeviceBuffer<int32_t> positions(std::vector<int32_t>(starts.begin(), starts.end()));
    AttentionPrefillParams p;
    SetShape(m, p);
    p.q = d_q.data();
    p.out = half ? nullptr : d_out.data();
    p.out_half = half ? d_half.data() : nullptr;
    p.k_cache = k.data();
    p.v_cache = v.data();
    p.block_tables = tables.data();
    p.block_table_stride = s.stride;
    p.row_starts = d_starts.data();
    p.start_positions = positions.data();
    p.max_rows = row_starts.back() + 3;
    p.max_sequences = static_cast<int>(starts.size());
    ASSERT_EQ(LaunchAttentionPrefill(p, nullptr), cudaSuccess);
    auto got = d_out.Download();
    if (half) {
      const auto halves = d_half.Download();
      std::transform(halves.begin(), halves.end(), got.begin(),
                     [](uint16_t x) { return static_cast<float>(reference::HalfToDouble(x)); });
    }
    if (half) {
      ExpectBlocks(p, d_half.Download(), row_starts.back());
    }
    for (size_t i = 0; i < starts.size(); ++i) {
      const AttentionSequence sequence{q.data() + row_starts[i] * size, nullptr, counts[i], starts[i],
                                       s.tables.data() + i * static_cast<size_t>(s.stride)};
      const auto want = reference::Attention(ShapeOf(m), sequence, s.k.data(), s.v.data());
      const std::vector<float> rows(got.begin() + row_starts[i] * size, got.begin() + row_starts[i + 1] * size);
      // Queries and weights are rounded to fp16.
      EXPECT_LT(Error(rows, want), 1e-3) << "sequence " << i;
    }
    if (!half) {
      EXPECT_TRUE(std::isfinite(got[0]));
      EXPECT_GT(got.back(), 1e38F) << "rows past the last must be left alone";
    }
  }

  // In blocks, the same halves as `rows`, and zeros after the last column.
  static void ExpectBlocks(AttentionPrefillParams p, const std::vector<uint16_t>& in_rows, int rows) {
    const int64_t cols = p.out_stride;
    p.out_block_rows = ActivationBlockRows(p.max_rows);
    DeviceBuffer<uint16_t> out(BlockedActivations(p.max_rows, cols));
    out.Fill(0x7F);
    p.out_half = out.data();
    ASSERT_EQ(LaunchAttentionPrefill(p, nullptr), cudaSuccess);
    const auto blocks = out.Download();
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = 0; col < (cols + 63) / 64 * 64; ++col) {
        const uint16_t got = blocks[static_cast<size_t>(ActivationPair(p.out_block_rows, row, col) + col % 2)];
        ASSERT_EQ(got, col < cols ? in_rows[static_cast<size_t>(row * cols + col)] : 0) << row << ", " << col;
      }
    }
  }
};

TEST_F(AttentionPrefillTest, MatchesTheReference) {
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    ExpectPrefill({4, 2, head_dim, 16, 0}, {0}, {200}, false);
    ExpectPrefill({2, 2, head_dim, 32, 0}, {0, 77, 300, 5}, {1, 65, 130, 64}, false);
    ExpectPrefill({4, 1, head_dim, 16, 90}, {0, 150}, {140, 129}, true);
  }
}

TEST_F(AttentionPrefillTest, OfOtherShapes) {
  ExpectPrefill({4, 2, 64, 7, 0}, {3}, {40}, false);
  ExpectPrefill({8, 4, 8, 16, 0}, {0, 9}, {17, 3}, false);
  ExpectPrefill({2, 1, 100, 16, 20}, {10}, {33}, true);
  ExpectPrefill({3, 1, 80, 16, 0}, {5}, {70}, true);
  ExpectPrefill({3, 1, 20, 16, 0}, {0}, {9}, true);
}

}  // namespace
}  // namespace flexquant::cuda
