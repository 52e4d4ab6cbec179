#include "kernels/cuda/attention_decode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kernels/reference/reference.h"
#include "tests/kernels/compare.h"
#include "tests/kernels/cuda/attention_calls.h"
#include "tests/kernels/cuda/cuda_backend.h"
#include "tests/kernels/cuda/device_buffer.h"
#include "tests/kernels/cuda/device_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant::cuda {
namespace {

using testing::AttentionInput;
using testing::DecodeAttention;
using testing::DeviceBuffer;
using testing::MakeAttentionShape;
using testing::PagedCache;
using testing::RandomFloats;
using testing::RowsOf;

const std::vector<int64_t> kLengths = {1, 2, 15, 16, 17, 63, 64, 65, 300, 1025};

// The newest position of each sequence.
AttentionInput Newest(const AttentionShape& shape, const PagedCache& cache, const std::vector<int64_t>& lengths) {
  AttentionInput input{shape, &cache, RandomFloats(static_cast<int64_t>(lengths.size()) * shape.q_stride, 6), {}, {}};
  for (const int64_t length : lengths) {
    input.starts.push_back(length - 1);
    input.counts.push_back(1);
  }
  return input;
}

class AttentionDecodeTest : public testing::DeviceTest {};

// More parts than any context of the common tests, and each launch leaves the workspace as it found it.
TEST_F(AttentionDecodeTest, ManySplitsAndRepeatedLaunches) {
  const auto backend = testing::MakeCudaBackend();
  for (const int64_t head_dim : {64, 128, 256}) {
    const AttentionShape shape = MakeAttentionShape(4, 1, head_dim, 16, 0);
    const std::vector<int64_t> lengths = {9001, 130, 4096};
    const PagedCache cache(shape, lengths, 5);
    const AttentionInput input = Newest(shape, cache, lengths);
    DecodeAttention call(input);
    ASSERT_EQ(LaunchAttentionDecode(call.params(), nullptr), cudaSuccess);
    const auto first = call.Outputs();
    for (size_t s = 0; s < lengths.size(); ++s) {
      const auto row = static_cast<int64_t>(s);
      const AttentionSequence sequence{input.q.data() + row * shape.q_stride, nullptr, 1, lengths[s] - 1,
                                       cache.table(s)};
      const auto want = reference::Attention(shape, sequence, cache.k().data(), cache.v().data());
      EXPECT_LE(testing::RelativeError(RowsOf(first, shape.out_stride, row, 1), want), backend->decode_error())
          << "length " << lengths[s];
    }
    for (int i = 1; i < 4; ++i) {
      call.params().context_ready = i % 2 != 0;
      ASSERT_EQ(LaunchAttentionDecode(call.params(), nullptr, /*programmatic=*/true), cudaSuccess);
    }
    EXPECT_EQ(call.Outputs(), first) << head_dim;
  }
}

// Lengths of a large batch.
std::vector<int64_t> ManyLengths() {
  std::vector<int64_t> lengths = {5000, 1, 129};
  for (int64_t i = 0; i < 37; ++i) {
    lengths.push_back(300 + i * 40);
  }
  return lengths;
}

TEST_F(AttentionDecodeTest, LargeBatchesChangeNoBits) {
  const std::vector<int64_t> lengths = ManyLengths();
  for (const AttentionShape& shape : {MakeAttentionShape(8, 2, 128, 16, 0), MakeAttentionShape(4, 2, 64, 32, 700),
                                      MakeAttentionShape(7, 1, 256, 16, 0), MakeAttentionShape(12, 1, 80, 16, 0)}) {
    const PagedCache cache(shape, lengths, 31);
    const AttentionInput input = Newest(shape, cache, lengths);
    DecodeAttention call(input);
    ASSERT_EQ(LaunchAttentionDecode(call.params(), nullptr), cudaSuccess);
    const auto together = call.Outputs();
    for (size_t s = 0; s < lengths.size(); ++s) {
      const auto row = static_cast<int64_t>(s);
      const PagedCache only = cache.Only(s);
      DecodeAttention alone({shape, &only, RowsOf(input.q, shape.q_stride, row, 1), {input.starts[s]}, {1}});
      ASSERT_EQ(LaunchAttentionDecode(alone.params(), nullptr), cudaSuccess);
      ASSERT_EQ(alone.Outputs(), RowsOf(together, shape.out_stride, row, 1))
          << "head size " << shape.head_dim << ", length " << lengths[s];
    }
  }
}

TEST_F(AttentionDecodeTest, OneWorkspaceServesLaunchesOfAnySize) {
  const AttentionShape shape = MakeAttentionShape(8, 2, 64, 16, 0);
  const std::vector<int64_t> lengths(8, 300);
  const PagedCache cache(shape, lengths, 33);
  const AttentionInput input = Newest(shape, cache, lengths);
  DecodeAttention large(input);
  AttentionInput half = input;
  half.starts.resize(4);
  half.counts.resize(4);
  half.q.resize(static_cast<size_t>(4 * shape.q_stride));
  DecodeAttention small(half);
  ASSERT_EQ(LaunchAttentionDecode(small.params(), nullptr), cudaSuccess);
  const auto want = small.Outputs();
  small.params().workspace = large.params().workspace;
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(LaunchAttentionDecode(large.params(), nullptr), cudaSuccess);
    small.Set({half.starts.begin(), half.starts.end()}, 4);
    ASSERT_EQ(LaunchAttentionDecode(small.params(), nullptr), cudaSuccess);
    EXPECT_EQ(small.Outputs(), want);
  }
}

TEST_F(AttentionDecodeTest, LeavesRowsPastTheCountAlone) {
  const AttentionShape shape = MakeAttentionShape(8, 2, 128, 16, 0);
  const PagedCache cache(shape, {40, 50}, 11);
  const AttentionInput input = Newest(shape, cache, {40, 50});
  const auto both = testing::MakeCudaBackend()->AttentionDecode(input);
  for (const int32_t rows : {0, 1}) {
    DecodeAttention call(input, rows);
    ASSERT_EQ(LaunchAttentionDecode(call.params(), nullptr), cudaSuccess);
    EXPECT_EQ(call.Outputs(), RowsOf(both, shape.out_stride, 0, rows));
  }
}

// Rotating in the kernel is bit-equal to doing so in a kernel in front of it, with the same cache after it. The last
// row is past the count.
void ExpectRotates(AttentionShape shape, const std::vector<int64_t>& lengths, bool norm) {
  SCOPED_TRACE(::testing::Message() << shape.num_heads << " heads, " << shape.num_kv_heads << " kv heads of "
                                    << shape.head_dim << ", window " << shape.sliding_window << ", norm " << norm);
  const PagedCache cache(shape, lengths, 15);
  const auto rows = static_cast<int32_t>(lengths.size());
  const int64_t q_size = shape.q_stride;
  testing::RopeInput rope;
  rope.shape = shape;
  rope.shape.q_stride = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim;
  rope.qkv = RandomFloats((rows + 1) * rope.shape.q_stride, 16);
  if (norm) {
    rope.q_norm = RandomFloats(shape.head_dim, 17);
    rope.k_norm = RandomFloats(shape.head_dim, 18);
  }
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  for (int64_t i = 0; i < longest * shape.head_dim / 2; ++i) {
    rope.cos.push_back(std::cos(static_cast<float>(i)));
    rope.sin.push_back(std::sin(static_cast<float>(i)));
  }
  for (int32_t row = 0; row < rows; ++row) {
    rope.positions.push_back(static_cast<int32_t>(lengths[static_cast<size_t>(row)] - 1));
    rope.sequences.push_back(row);
  }
  rope.tables = cache.tables();
  rope.table_stride = cache.table_stride();
  rope.k = cache.k();
  rope.v = cache.v();
  const auto backend = testing::MakeCudaBackend();
  auto unfused = rope;
  unfused.qkv.resize(static_cast<size_t>(rows * rope.shape.q_stride));
  const testing::RopeOutput rotated = backend->RopeAndStore(unfused);
  const PagedCache stored = cache.With(rotated.k, rotated.v);
  AttentionInput input{shape, &stored, rotated.q, {}, std::vector<int64_t>(lengths.size(), 1)};
  for (const int64_t length : lengths) {
    input.starts.push_back(length - 1);
  }
  ASSERT_EQ(q_size, shape.num_heads * shape.head_dim);
  const auto want = backend->AttentionDecode(input);

  std::vector<float2> angles;
  for (size_t i = 0; i < rope.cos.size(); ++i) {
    angles.push_back({rope.cos[i], rope.sin[i]});
  }
  const DeviceBuffer<float2> table(angles);
  const DeviceBuffer<float> q_norm(rope.q_norm);
  const DeviceBuffer<float> k_norm(rope.k_norm);
  AttentionInput fused{rope.shape, &cache, rope.qkv, input.starts, {}};
  fused.starts.push_back(0);
  DecodeAttention call(fused, rows);
  call.params().rope = {table.data(), norm ? q_norm.data() : nullptr, norm ? k_norm.data() : nullptr, rope.norm_eps};
  call.params().context_ready = true;
  ASSERT_EQ(LaunchAttentionDecode(call.params(), nullptr), cudaSuccess);
  EXPECT_EQ(call.Outputs(), want);
  EXPECT_EQ(call.k(), rotated.k);
  EXPECT_EQ(call.v(), rotated.v);
  EXPECT_NE(rotated.k, cache.k());
}

TEST_F(AttentionDecodeTest, RotatesItself) {
  for (const int64_t head_dim : {64, 80, 96, 128, 256}) {
    ExpectRotates(MakeAttentionShape(8, 2, head_dim, 16, 0), kLengths, false);
    ExpectRotates(MakeAttentionShape(4, 2, head_dim, 32, 100), {1, 99, 117, 700}, true);
  }
  ExpectRotates(MakeAttentionShape(28, 2, 128, 16, 0), {1, 16, 17, 200, 2050}, true);
  ExpectRotates(MakeAttentionShape(8, 2, 128, 16, 0), ManyLengths(), false);
}

TEST_F(AttentionDecodeTest, RotatesOnlyInShapesItIsFastFor) {
  AttentionDecodeParams p;
  testing::SetShape(MakeAttentionShape(4, 2, 48, 16, 0), p);
  EXPECT_FALSE(AttentionDecodeRotates(p));
  p.rope.table = reinterpret_cast<const float2*>(&p);
  EXPECT_EQ(LaunchAttentionDecode(p, nullptr), cudaErrorInvalidValue);
}

TEST_F(AttentionDecodeTest, RefusesMoreRowsThanItsWorkspaceCounts) {
  AttentionDecodeParams p;
  testing::SetShape(MakeAttentionShape(4, 2, 64, 16, 0), p);
  p.max_rows = kAttentionDecodeMaxRows + 1;
  EXPECT_EQ(LaunchAttentionDecode(p, nullptr), cudaErrorInvalidValue);
}

TEST_F(AttentionDecodeTest, OneCapturedGraphServesAnyLengthAndRowCount) {
  const AttentionShape shape = MakeAttentionShape(8, 2, 64, 16, 0);
  const PagedCache cache(shape, {700, 40}, 13);
  const AttentionInput input = Newest(shape, cache, {700, 40});
  DecodeAttention call(input);
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_EQ(LaunchAttentionDecode(call.params(), stream), cudaSuccess);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  for (const auto& [first, second, rows] : std::vector<std::array<int32_t, 3>>{{699, 39, 2}, {5, 20, 2}, {300, 0, 1}}) {
    call.Set({first, second}, rows);
    ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
    const auto replayed = call.Outputs();
    call.Set({first, second}, rows);
    ASSERT_EQ(LaunchAttentionDecode(call.params(), nullptr), cudaSuccess);
    EXPECT_EQ(call.Outputs(), replayed) << first << ", " << second << ", " << rows << " rows";
    EXPECT_EQ(replayed.size(), static_cast<size_t>(rows * shape.out_stride));
  }
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

}  // namespace
}  // namespace flexquant::cuda
