#include "kernels/cuda/attention_decode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kernels/cuda/rope_kv.h"
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

class AttentionDecodeTest : public testing::DeviceTest {
 protected:
  // One query a sequence, at its last position.
  std::vector<float> Decode(const Model& m, const std::vector<int>& lengths, const Sequences& s,
                            const std::vector<float>& q, int repeats = 1, int rows = -1) {
    std::vector<int32_t> positions;
    for (const int length : lengths) {
      positions.push_back(length - 1);
    }
    const DeviceBuffer<float> d_q(q);
    DeviceBuffer<float> d_out(q.size());
    d_out.Fill(0x7F);
    const DeviceBuffer<uint16_t> k(s.k);
    const DeviceBuffer<uint16_t> v(s.v);
    const DeviceBuffer<uint32_t> tables(s.tables);
    const DeviceBuffer<int32_t> d_positions(positions);
    const DeviceBuffer<int32_t> d_rows(std::vector<int32_t>{rows < 0 ? static_cast<int32_t>(lengths.size()) : rows});
    AttentionDecodeParams p;
    SetShape(m, p);
    p.q = d_q.data();
    p.out = d_out.data();
    p.k_cache = k.data();
    p.v_cache = v.data();
    p.block_tables = tables.data();
    p.block_table_stride = s.stride;
    p.positions = d_positions.data();
    p.num_rows = d_rows.data();
    p.max_rows = static_cast<int>(lengths.size());
    const DeviceBuffer<uint8_t> workspace(AttentionDecodeWorkspaceBytes(p));
    p.workspace = workspace.data();
    for (int i = 0; i < repeats; ++i) {
      p.context_ready = i % 2 != 0;
      EXPECT_EQ(LaunchAttentionDecode(p, nullptr, i > 0), cudaSuccess);
    }
    return d_out.Download();
  }

  void ExpectDecode(const Model& m, const std::vector<int>& lengths) {
    SCOPED_TRACE(::testing::Message() << m.heads << " heads, " << m.kv_heads << " kv heads of " << m.head_dim
                                      << ", blocks of " << m.block_tokens << ", window " << m.window);
    const Sequences s(m, lengths, 5);
    const int64_t size = m.heads * m.head_dim;
    const auto q = RandomFloats(static_cast<int64_t>(lengths.size()) * size, 6);
    const auto got = Decode(m, lengths, s, q, 3);
    for (size_t i = 0; i < lengths.size(); ++i) {
      const AttentionSequence sequence{q.data() + static_cast<int64_t>(i) * size, nullptr, 1, lengths[i] - 1,
                                       s.tables.data() + i * static_cast<size_t>(s.stride)};
      const auto want = reference::Attention(ShapeOf(m), sequence, s.k.data(), s.v.data());
      const std::vector<float> row(got.begin() + static_cast<int64_t>(i) * size,
                                   got.begin() + static_cast<int64_t>(i + 1) * size);
      // Weights are rounded to fp16, half of 2^-10 of each at most.
      EXPECT_LT(Error(row, want), 5e-4) << "length " << lengths[i];
    }
  }
};

const std::vector<int> kLengths = {1, 2, 15, 16, 17, 63, 64, 65, 300, 1025};

TEST_F(AttentionDecodeTest, MatchesTheReference) {
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    ExpectDecode({8, 2, head_dim, 16, 0}, kLengths);
    ExpectDecode({3, 3, head_dim, 32, 0}, {1, 33, 500});
    ExpectDecode({4, 2, head_dim, 32, 100}, {1, 99, 100, 101, 117, 700});
  }
}

TEST_F(AttentionDecodeTest, WithManyHeadsAKeyHead) {
  ExpectDecode({8, 1, 128, 16, 0}, {70, 513});
  ExpectDecode({12, 1, 64, 16, 0}, {70, 513});
  ExpectDecode({28, 4, 128, 16, 0}, {200});
  ExpectDecode({34, 2, 64, 32, 64}, {70, 513});
}

TEST_F(AttentionDecodeTest, OfLongContexts) { ExpectDecode({4, 1, 128, 16, 0}, {4096, 9001}); }

TEST_F(AttentionDecodeTest, OfOtherShapes) {
  for (const int head_dim : {4, 8, 48, 100, 160}) {
    ExpectDecode({4, 2, head_dim, 16, 0}, {1, 31, 32, 33, 100});
  }
  ExpectDecode({4, 2, 64, 7, 0}, {1, 40, 129});
  ExpectDecode({8, 4, 8, 16, 5}, {1, 40, 129});
}

TEST_F(AttentionDecodeTest, DoesNotDependOnTheBatch) {
  const Model m = {8, 2, 128, 16, 0};
  const Sequences s(m, kLengths, 9);
  const int64_t size = m.heads * m.head_dim;
  const auto q = RandomFloats(static_cast<int64_t>(kLengths.size()) * size, 10);
  const auto together = Decode(m, kLengths, s, q);
  for (size_t i = 0; i < kLengths.size(); ++i) {
    Sequences one = s;
    one.tables.assign(s.tables.begin() + static_cast<int64_t>(i) * s.stride,
                      s.tables.begin() + static_cast<int64_t>(i + 1) * s.stride);
    const auto begin = static_cast<int64_t>(i) * size;
    const std::vector<float> my_q(q.begin() + begin, q.begin() + begin + size);
    const auto alone = Decode(m, {kLengths[i]}, one, my_q);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + begin)) << kLengths[i];
  }
}

TEST_F(AttentionDecodeTest, LeavesRowsPastTheCountAlone) {
  const Model m = {8, 2, 128, 16, 0};
  const Sequences s(m, {40, 50}, 11);
  const auto q = RandomFloats(2 * m.heads * m.head_dim, 12);
  const auto out = Decode(m, {40, 50}, s, q, 1, 1);
  EXPECT_LT(std::fabs(out[0]), 10.0F);
  EXPECT_GT(out.back(), 1e38F);
  EXPECT_GT(Decode(m, {40, 50}, s, q, 1, 0)[0], 1e38F);
}

// Rotating in the kernel is bit-equal to doing so in a kernel in front of it, with the same cache after it.
void ExpectRotates(const Model& m, const std::vector<int>& lengths, bool norm) {
  SCOPED_TRACE(::testing::Message() << m.heads << " heads, " << m.kv_heads << " kv heads of " << m.head_dim
                                    << ", window " << m.window << ", norm " << norm);
  const Sequences s(m, lengths, 15);
  const auto rows = static_cast<int>(lengths.size());
  const int64_t stride = static_cast<int64_t>(m.heads + 2 * m.kv_heads) * m.head_dim;
  const int longest = *std::max_element(lengths.begin(), lengths.end());
  std::vector<int32_t> positions;
  for (const int length : lengths) {
    positions.push_back(length - 1);
  }
  positions.push_back(3);  // a row past the count
  std::vector<double> frequencies;
  for (int i = 0; i < m.head_dim / 2; ++i) {
    frequencies.push_back(std::pow(10000.0, -2.0 * i / m.head_dim));
  }
  const DeviceBuffer<double> d_frequencies(frequencies);
  const DeviceBuffer<float2> table(static_cast<size_t>(longest) * frequencies.size());
  ASSERT_EQ(LaunchRopeTable(d_frequencies.data(), m.head_dim / 2, longest, table.data(), nullptr), cudaSuccess);
  const auto qkv = RandomFloats((rows + 1) * stride, 16);
  const DeviceBuffer<float> norms(RandomFloats(2 * m.head_dim, 17));
  const DeviceBuffer<uint32_t> tables(s.tables);
  const DeviceBuffer<int32_t> d_positions(positions);
  const DeviceBuffer<int32_t> d_rows(std::vector<int32_t>{rows});
  std::array<std::vector<float>, 2> outs;
  std::array<std::vector<uint16_t>, 4> caches;
  for (const bool fused : {false, true}) {
    const DeviceBuffer<float> d_qkv(qkv);
    DeviceBuffer<float> out(static_cast<size_t>((rows + 1) * m.heads * m.head_dim));
    out.Fill(0x7F);
    const DeviceBuffer<uint16_t> k(s.k);
    const DeviceBuffer<uint16_t> v(s.v);
    AttentionDecodeParams p;
    SetShape(m, p);
    p.q = d_qkv.data();
    p.q_stride = stride;
    p.out = out.data();
    p.k_cache = k.data();
    p.v_cache = v.data();
    p.block_tables = tables.data();
    p.block_table_stride = s.stride;
    p.positions = d_positions.data();
    p.num_rows = d_rows.data();
    p.max_rows = rows + 1;
    const AttentionRope rope = {table.data(), norm ? norms.data() : nullptr,
                                norm ? norms.data() + m.head_dim : nullptr, 1e-6F};
    if (fused) {
      p.rope = rope;
      p.context_ready = true;
    } else {
      RopeKvParams r;
      r.num_heads = m.heads;
      r.num_kv_heads = m.kv_heads;
      r.head_dim = m.head_dim;
      r.block_tokens = m.block_tokens;
      r.qkv = d_qkv.data();
      r.stride = stride;
      r.q_norm = rope.q_norm;
      r.k_norm = rope.k_norm;
      r.norm_eps = rope.norm_eps;
      r.rope = table.data();
      r.positions = d_positions.data();
      r.block_tables = tables.data();
      r.block_table_stride = s.stride;
      r.k_cache = k.data();
      r.v_cache = v.data();
      r.num_rows = d_rows.data();
      r.max_rows = rows + 1;
      ASSERT_EQ(LaunchRopeKv(r, nullptr), cudaSuccess);
    }
    const DeviceBuffer<uint8_t> workspace(AttentionDecodeWorkspaceBytes(p));
    p.workspace = workspace.data();
    ASSERT_EQ(LaunchAttentionDecode(p, nullptr), cudaSuccess);
    outs[fused ? 1 : 0] = out.Download();
    caches[fused ? 2 : 0] = k.Download();
    caches[fused ? 3 : 1] = v.Download();
  }
  EXPECT_EQ(outs[0], outs[1]);
  EXPECT_EQ(caches[0], caches[2]);
  EXPECT_EQ(caches[1], caches[3]);
  EXPECT_NE(caches[0], s.k);
  EXPECT_LT(std::fabs(outs[1][0]), 10.0F);
}

TEST_F(AttentionDecodeTest, RotatesItself) {
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    ExpectRotates({8, 2, head_dim, 16, 0}, kLengths, false);
    ExpectRotates({4, 2, head_dim, 32, 100}, {1, 99, 117, 700}, true);
  }
  ExpectRotates({28, 2, 128, 16, 0}, {1, 16, 17, 200, 2050}, true);
  AttentionDecodeParams p;
  SetShape({4, 2, 48, 16, 0}, p);
  EXPECT_FALSE(AttentionDecodeRotates(p));
  p.rope.table = reinterpret_cast<const float2*>(&p);
  EXPECT_EQ(LaunchAttentionDecode(p, nullptr), cudaErrorInvalidValue);
}

TEST_F(AttentionDecodeTest, OneCapturedGraphServesAnyLengthAndRowCount) {
  const Model m = {8, 2, 64, 16, 0};
  const std::vector<int> lengths = {700, 40};
  const Sequences s(m, lengths, 13);
  const int64_t size = m.heads * m.head_dim;
  const DeviceBuffer<float> q(RandomFloats(2 * size, 14));
  DeviceBuffer<float> out(static_cast<size_t>(2 * size));
  const DeviceBuffer<uint16_t> k(s.k);
  const DeviceBuffer<uint16_t> v(s.v);
  const DeviceBuffer<uint32_t> tables(s.tables);
  DeviceBuffer<int32_t> positions(2);
  DeviceBuffer<int32_t> rows(1);
  AttentionDecodeParams p;
  SetShape(m, p);
  p.q = q.data();
  p.out = out.data();
  p.k_cache = k.data();
  p.v_cache = v.data();
  p.block_tables = tables.data();
  p.block_table_stride = s.stride;
  p.positions = positions.data();
  p.num_rows = rows.data();
  p.max_rows = 2;
  const DeviceBuffer<uint8_t> workspace(AttentionDecodeWorkspaceBytes(p));
  p.workspace = workspace.data();
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_EQ(LaunchAttentionDecode(p, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  for (const auto& [first, second, count] :
       std::vector<std::array<int32_t, 3>>{{699, 39, 2}, {5, 20, 2}, {300, 0, 1}}) {
    positions.Upload({first, second});
    rows.Upload({count});
    out.Fill(0x7F);
    ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    const auto replayed = out.Download();
    out.Fill(0x7F);
    ASSERT_EQ(LaunchAttentionDecode(p, nullptr), cudaSuccess);
    EXPECT_EQ(out.Download(), replayed);
    EXPECT_LT(std::fabs(replayed[0]), 10.0F);
    EXPECT_EQ(replayed.back() > 1e38F, count == 1);
  }
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

}  // namespace
}  // namespace flexquant::cuda
