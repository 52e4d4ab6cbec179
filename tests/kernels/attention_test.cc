#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/isa_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using testing::RandomFloats;

// A paged cache of one layer with shuffled blocks; what no position uses holds NaN, which must never show.
struct Cache {
  Cache(const AttentionShape& shape, int64_t positions, uint32_t seed, float deviation = 1.0F) {
    const int64_t blocks = CeilDiv(positions, shape.block_tokens);
    table.resize(static_cast<size_t>(blocks));
    std::iota(table.begin(), table.end(), 2U);
    std::mt19937 random(seed);
    std::shuffle(table.begin(), table.end(), random);
    const int64_t block_size = shape.num_kv_heads * shape.block_tokens * shape.head_dim;
    k.assign(static_cast<size_t>((blocks + 2) * block_size), 0x7E00);
    v = k;
    const auto values = RandomFloats(2 * positions * shape.num_kv_heads * shape.head_dim, seed + 1, deviation);
    size_t next = 0;
    for (int64_t p = 0; p < positions; ++p) {
      for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
        const int64_t at =
            ((static_cast<int64_t>(table[static_cast<size_t>(p / shape.block_tokens)]) * shape.num_kv_heads + head) *
                 shape.block_tokens +
             p % shape.block_tokens) *
            shape.head_dim;
        for (int64_t d = 0; d < shape.head_dim; ++d) {
          k[static_cast<size_t>(at + d)] = reference::DoubleToHalf(static_cast<double>(values[next++]));
          v[static_cast<size_t>(at + d)] = reference::DoubleToHalf(static_cast<double>(values[next++]));
        }
      }
    }
  }
  std::vector<uint32_t> table;
  std::vector<uint16_t> k;
  std::vector<uint16_t> v;
};

AttentionShape MakeShape(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t block_tokens, int64_t window) {
  return {heads,  kv_heads,         head_dim,         block_tokens,
          window, heads * head_dim, heads * head_dim, 1.0F / std::sqrt(static_cast<float>(head_dim))};
}

std::vector<float> RunAttention(const CpuKernels& kernels, const AttentionShape& shape, const Cache& cache,
                                const float* q, int64_t tokens, int64_t start,
                                const std::vector<int64_t>& splits = {}) {
  std::vector<float> out(static_cast<size_t>(tokens * shape.out_stride), -77.0F);
  const AttentionSequence sequence{q, out.data(), tokens, start, cache.table.data()};
  std::vector<uint8_t> workspace(AttentionWorkspaceBytes(shape, start + tokens));
  int64_t begin = 0;
  for (const int64_t end : splits) {
    kernels.attention(shape, sequence, cache.k.data(), cache.v.data(), begin, end, workspace.data());
    begin = end;
  }
  kernels.attention(shape, sequence, cache.k.data(), cache.v.data(), begin, shape.num_heads, workspace.data());
  return out;
}

class AttentionTest : public testing::IsaTest {
 protected:
  void ExpectMatches(const AttentionShape& shape, int64_t tokens, int64_t start, float deviation = 1.0F) {
    const Cache cache(shape, start + tokens, 21, deviation);
    const auto q = RandomFloats(tokens * shape.q_stride, 22, deviation);
    const auto got = RunAttention(kernels(), shape, cache, q.data(), tokens, start);
    const AttentionSequence sequence{q.data(), nullptr, tokens, start, cache.table.data()};
    const auto expected = reference::Attention(shape, sequence, cache.k.data(), cache.v.data());
    for (size_t i = 0; i < expected.size(); ++i) {
      // Rounding of a score of size s moves its weight by s epsilon.
      const double tolerance = 2e-6 * static_cast<double>(deviation * deviation * deviation + 1.0F) * 4.0;
      ASSERT_NEAR(static_cast<double>(got[i]), expected[i], tolerance)
          << "heads " << shape.num_heads << " head_dim " << shape.head_dim << " start " << start << " at " << i;
    }
  }
};

TEST_P(AttentionTest, MatchesTheReferenceAtEveryHeadSize) {
  for (const int64_t head_dim : {8, 10, 30, 48, 64, 80, 96, 128, 130, 256}) {
    ExpectMatches(MakeShape(4, 2, head_dim, 16, 0), 5, 40);
  }
}

TEST_P(AttentionTest, MatchesTheReferenceWithGroupsWindowsAndBlocks) {
  for (const int64_t kv_heads : {1, 3, 9}) {
    for (const int64_t window : {0, 1, 7, 33, 1000}) {
      for (const int64_t block_tokens : {1, 16, 24}) {
        ExpectMatches(MakeShape(9, kv_heads, 32, block_tokens, window), 1, 0);
        ExpectMatches(MakeShape(9, kv_heads, 32, block_tokens, window), 37, 0);
        ExpectMatches(MakeShape(9, kv_heads, 32, block_tokens, window), 3, 77);
      }
    }
  }
}

TEST_P(AttentionTest, ManyHeadsOnOneKvHead) { ExpectMatches(MakeShape(71, 1, 16, 16, 0), 3, 20); }

TEST_P(AttentionTest, LongContext) { ExpectMatches(MakeShape(3, 1, 64, 16, 0), 2, 3000); }

TEST_P(AttentionTest, LargeScoresDoNotOverflow) { ExpectMatches(MakeShape(2, 1, 64, 16, 0), 4, 100, 8.0F); }

TEST_P(AttentionTest, OnePositionReturnsItsValue) {
  const AttentionShape shape = MakeShape(2, 1, 64, 16, 0);
  const Cache cache(shape, 1, 5);
  const auto q = RandomFloats(shape.q_stride, 6);
  const auto got = RunAttention(kernels(), shape, cache, q.data(), 1, 0);
  const int64_t at = static_cast<int64_t>(cache.table[0]) * shape.block_tokens * shape.head_dim;
  for (int64_t i = 0; i < 128; ++i) {
    EXPECT_EQ(static_cast<double>(got[static_cast<size_t>(i)]),
              reference::HalfToDouble(cache.v[static_cast<size_t>(at + i % 64)]));
  }
}

TEST_P(AttentionTest, AChunkEqualsItsTokensOneByOneAndAnyHeadSplit) {
  for (const int64_t window : {0, 50}) {
    const AttentionShape shape = MakeShape(9, 3, 64, 16, window);
    const int64_t start = 30;
    const int64_t tokens = 70;
    const Cache cache(shape, start + tokens, 31);
    const auto q = RandomFloats(tokens * shape.q_stride, 32);
    const auto whole = RunAttention(kernels(), shape, cache, q.data(), tokens, start);
    for (int64_t t = 0; t < tokens; ++t) {
      const auto one = RunAttention(kernels(), shape, cache, q.data() + t * shape.q_stride, 1, start + t);
      ASSERT_TRUE(std::equal(one.begin(), one.end(), whole.begin() + t * shape.out_stride)) << "token " << t;
    }
    const auto split = RunAttention(kernels(), shape, cache, q.data(), tokens, start, {1, 2, 4, 8});
    EXPECT_EQ(split, whole);
  }
}

FLEXQUANT_INSTANTIATE_ISA_TEST(AttentionTest);

}  // namespace
}  // namespace flexquant
