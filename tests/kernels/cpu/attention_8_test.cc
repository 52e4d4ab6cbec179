#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "kernels/kv_8.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/compare.h"
#include "tests/kernels/cpu/isa_test.h"
#include "tests/kernels/paged_cache.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using testing::MakeAttentionShape;
using testing::PagedCache;
using testing::RandomFloats;
using testing::RelativeError;

// Queries and weights have 14 bits. A rounding of a score moves its weight by as much times the score.
constexpr double kTolerance = 4e-4;

// One sequence's keys and values in 8 bits, and its shape with the number of blocks. What no position uses has codes of
// -128 and scales that are no numbers; padded dimensions are 0, as in memory that nobody has written.
class ByteCache {
 public:
  ByteCache(const CpuKernels& kernels, const AttentionShape& shape, int64_t length, uint32_t seed,
            float deviation = 1.0F)
      : shape_(shape), tables_(shape, {length}, seed) {
    shape_.num_blocks = tables_.table_stride() + 1;
    const auto slab_bytes = static_cast<int64_t>(Kv8SlabBytes(shape.head_dim));
    const int64_t slabs = shape.block_tokens / 16;
    keys_.assign(static_cast<size_t>(shape.num_kv_heads * shape_.num_blocks * slabs * slab_bytes), 0);
    values_ = keys_;
    for (size_t at = 0; at < keys_.size(); at += static_cast<size_t>(slab_bytes)) {
      Spoil(keys_.data() + at, values_.data() + at);
    }
    const int64_t size = shape.num_kv_heads * shape.head_dim;
    k_ = RandomFloats(length * size, seed + 1, deviation);
    v_ = RandomFloats(length * size, seed + 2, deviation);
    for (int64_t p = 0; p < length; ++p) {
      const int64_t block = tables_.table(0)[p / shape.block_tokens];
      const int64_t slab = (block * slabs + p % shape.block_tokens / 16) * slab_bytes;
      kernels.store_kv_8(k_.data() + p * size, v_.data() + p * size, shape.num_kv_heads, shape.head_dim,
                         keys_.data() + slab, values_.data() + slab, shape_.num_blocks * slabs * slab_bytes, p % 16);
    }
  }

  const uint32_t* table() const { return tables_.table(0); }
  const AttentionShape& shape() const { return shape_; }
  const uint8_t* keys() const { return keys_.data(); }
  const uint8_t* values() const { return values_.data(); }
  const std::vector<float>& k() const { return k_; }
  const std::vector<float>& v() const { return v_; }

 private:
  void Spoil(uint8_t* keys, uint8_t* values) const {
    const Kv8Slab<void> layout{(shape_.head_dim + 15) / 16 * 16};
    for (int64_t d = 0; d < shape_.head_dim; ++d) {
      for (int64_t slot = 0; slot < 16; ++slot) {
        layout.codes(keys)[(d / 4 * 16 + slot) * 4 + d % 4] = -128;
        layout.codes(values)[(slot / 4 * layout.padded + d) * 4 + slot % 4] = -128;
      }
    }
    for (int64_t slot = 0; slot < 16; ++slot) {
      layout.scales(keys)[slot] = 0x7E00;
      layout.scales(values)[slot] = 0x7E00;
      layout.sums(keys)[slot] = -32768;
    }
  }

  AttentionShape shape_;
  PagedCache tables_;
  std::vector<float> k_;  // [positions, num_kv_heads, head_dim]
  std::vector<float> v_;
  std::vector<uint8_t> keys_;
  std::vector<uint8_t> values_;
};

class Attention8Test : public testing::IsaTest {
 protected:
  std::vector<float> Attend(const AttentionShape& shape, const ByteCache& cache, const float* q, int64_t tokens,
                            int64_t start, const std::vector<int64_t>& splits = {}) {
    std::vector<float> out(static_cast<size_t>(tokens * shape.out_stride), -77.0F);
    const AttentionSequence sequence{q, out.data(), tokens, start, cache.table()};
    std::vector<uint8_t> workspace(AttentionWorkspaceBytes(shape, start + tokens), 0xFF);
    int64_t begin = 0;
    for (const int64_t end : splits) {
      kernels().attention_8(cache.shape(), sequence, cache.keys(), cache.values(), begin, end, workspace.data());
      begin = end;
    }
    kernels().attention_8(cache.shape(), sequence, cache.keys(), cache.values(), begin, shape.num_heads,
                          workspace.data());
    return out;
  }

  // Of one query token, each part by itself, the last one first.
  std::vector<float> AttendInParts(const AttentionShape& shape, const ByteCache& cache, const float* q,
                                   int64_t position) {
    std::vector<float> out(static_cast<size_t>(shape.out_stride), -77.0F);
    const AttentionSequence sequence{q, out.data(), 1, position, cache.table()};
    std::vector<uint8_t> workspace(AttentionWorkspaceBytes(shape, position + 1), 0xFF);
    const int64_t first_seen = shape.sliding_window > 0 ? std::max<int64_t>(0, position + 1 - shape.sliding_window) : 0;
    const int64_t first = first_seen / kAttentionPartKeys;
    const int64_t parts = position / kAttentionPartKeys - first + 1;
    const auto floats = static_cast<int64_t>(AttentionRecordBytes(shape.head_dim) / sizeof(float));
    std::vector<float> records(static_cast<size_t>(shape.num_heads * parts * floats), 99.0F);
    for (int64_t part = parts - 1; part >= 0; --part) {
      for (int64_t head = 0; head < shape.num_heads; head += 2) {
        kernels().attention_8_part(cache.shape(), sequence, cache.keys(), cache.values(), head,
                                   std::min(head + 2, shape.num_heads), first + part, records.data() + part * floats,
                                   parts * floats, workspace.data());
      }
    }
    for (int64_t head = 0; head < shape.num_heads; ++head) {
      kernels().merge_attention_8(records.data() + head * parts * floats, parts, shape.head_dim,
                                  out.data() + head * shape.head_dim);
    }
    return out;
  }

  void ExpectMatches(const AttentionShape& shape, int64_t start, int64_t tokens, float deviation = 1.0F) {
    SCOPED_TRACE(::testing::Message() << shape.num_heads << " heads, " << shape.num_kv_heads << " kv heads of "
                                      << shape.head_dim << ", blocks of " << shape.block_tokens << ", window "
                                      << shape.sliding_window << ", " << tokens << " tokens at " << start);
    const ByteCache cache(kernels(), shape, start + tokens, 41, deviation);
    const auto q = RandomFloats(tokens * shape.q_stride, 42, deviation);
    const AttentionSequence sequence{q.data(), nullptr, tokens, start, cache.table()};
    const auto expected = reference::Attention8(cache.shape(), sequence, cache.keys(), cache.values());
    const double size = std::max(1.0, std::pow(static_cast<double>(deviation), 3));
    EXPECT_LE(RelativeError(Attend(shape, cache, q.data(), tokens, start), expected), size * kTolerance);
  }
};

TEST_P(Attention8Test, EveryHeadSize) {
  for (const int64_t head_dim : {4, 8, 10, 30, 48, 64, 80, 100, 128, 256}) {
    for (const int64_t start : {0, 1, 14, 15, 16, 63, 64, 300, 1024}) {
      ExpectMatches(MakeAttentionShape(8, 2, head_dim, 16, 0), start, 1);
    }
    ExpectMatches(MakeAttentionShape(2, 2, head_dim, 32, 0), 77, 65);
    ExpectMatches(MakeAttentionShape(4, 1, head_dim, 16, 30), 150, 33);
  }
}

TEST_P(Attention8Test, GroupsWindowsAndBlocks) {
  for (const int64_t kv_heads : {1, 3, 9}) {
    for (const int64_t window : {0, 1, 7, 33, 64, 1000}) {
      for (const int64_t block_tokens : {16, 48}) {
        const AttentionShape shape = MakeAttentionShape(9, kv_heads, 32, block_tokens, window);
        ExpectMatches(shape, 0, 37);
        ExpectMatches(shape, 127, 3);
        ExpectMatches(shape, 200, 1);
      }
    }
  }
  ExpectMatches(MakeAttentionShape(71, 1, 16, 16, 0), 20, 3);
}

TEST_P(Attention8Test, LargeScoresDoNotOverflow) { ExpectMatches(MakeAttentionShape(2, 1, 64, 16, 0), 100, 4, 8.0F); }

TEST_P(Attention8Test, AChunkEqualsItsTokensOneByOneAndAnyHeadSplit) {
  for (const auto& [window, start] : std::vector<std::pair<int64_t, int64_t>>{{0, 30}, {50, 30}, {0, 490}, {50, 230}}) {
    const AttentionShape shape = MakeAttentionShape(9, 3, 64, 16, window);
    const int64_t tokens = 70;
    const ByteCache cache(kernels(), shape, start + tokens, 31);
    const auto q = RandomFloats(tokens * shape.q_stride, 32);
    const auto whole = Attend(shape, cache, q.data(), tokens, start);
    for (int64_t t = 0; t < tokens; ++t) {
      const auto one = Attend(shape, cache, q.data() + t * shape.q_stride, 1, start + t);
      ASSERT_TRUE(std::equal(one.begin(), one.end(), whole.begin() + t * shape.out_stride)) << "token " << t;
    }
    EXPECT_EQ(Attend(shape, cache, q.data(), tokens, start, {1, 2, 4, 8}), whole);
  }
}

TEST_P(Attention8Test, PartsOfAContextGiveTheSame) {
  for (const int64_t head_dim : {20, 64}) {
    for (const int64_t window : {0, 300}) {
      const AttentionShape shape = MakeAttentionShape(9, 3, head_dim, 16, window);
      const ByteCache cache(kernels(), shape, 1100, 33);
      const auto q = RandomFloats(shape.q_stride, 34);
      for (const int64_t position : {0, 255, 256, 511, 700, 1099}) {
        EXPECT_EQ(AttendInParts(shape, cache, q.data(), position), Attend(shape, cache, q.data(), 1, position))
            << "at " << position << ", heads of " << head_dim << ", window " << window;
      }
    }
  }
}

// What is kept is within half a step, of the largest number over 127, and scales are 2^-11 off at most.
TEST_P(Attention8Test, KeysAndValuesKeepEightBits) {
  for (const int64_t head_dim : {4, 10, 64, 256}) {
    for (const float deviation : {1.0F, 1e-3F, 3e4F}) {
      const AttentionShape shape = MakeAttentionShape(2, 2, head_dim, 16, 0);
      const int64_t length = 40;
      const ByteCache cache(kernels(), shape, length, 51, deviation);
      const auto layout = Kv8Slab<void>{(head_dim + 15) / 16 * 16};
      for (int64_t p = 0; p < length; ++p) {
        for (int64_t head = 0; head < 2; ++head) {
          const int64_t slab =
              (head * cache.shape().num_blocks + cache.table()[p / 16]) * static_cast<int64_t>(Kv8SlabBytes(head_dim));
          const uint8_t* keys = cache.keys() + slab;
          const uint8_t* values = cache.values() + slab;
          const auto expect_kept = [&](const float* x, uint16_t scale, auto code) {
            const double step = reference::HalfToDouble(scale);
            const float largest = std::abs(
                *std::max_element(x, x + head_dim, [](float a, float b) { return std::abs(a) < std::abs(b); }));
            EXPECT_NEAR(step, static_cast<double>(largest) / 127, step * 0x1p-11 + 0x1p-25);
            for (int64_t d = 0; d < head_dim; ++d) {
              EXPECT_NEAR(code(d) * step, static_cast<double>(x[d]), 0.5 * step + 127 * (step * 0x1p-11 + 0x1p-25));
            }
          };
          const int64_t at = (p * 2 + head) * head_dim;
          int sum = 0;
          expect_kept(cache.k().data() + at, layout.scales(keys)[p % 16], [&](int64_t d) {
            const int code = layout.codes(keys)[(d / 4 * 16 + p % 16) * 4 + d % 4];
            sum += code;
            return code;
          });
          EXPECT_EQ(layout.sums(keys)[p % 16], sum);
          expect_kept(cache.v().data() + at, layout.scales(values)[p % 16],
                      [&](int64_t d) { return layout.codes(values)[(p % 16 / 4 * layout.padded + d) * 4 + p % 4]; });
        }
      }
    }
  }
}

FLEXQUANT_INSTANTIATE_ISA_TEST(Attention8Test);

}  // namespace
}  // namespace flexquant
