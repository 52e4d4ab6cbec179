#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/reference/reference.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/compare.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using testing::AttentionInput;
using testing::kEpsilon;
using testing::MakeAttentionShape;
using testing::PagedCache;
using testing::RandomFloats;
using testing::RelativeError;
using testing::RowsOf;

const std::vector<int64_t> kLengths = {1, 2, 15, 16, 17, 63, 64, 65, 300, 1025};

class AttentionTest : public testing::BackendTest {
 protected:
  // Chunks of `counts` rows from `starts` on, and by the decode kernel if each has one row.
  void ExpectMatches(AttentionShape shape, const std::vector<int64_t>& starts, const std::vector<int64_t>& counts,
                     float deviation = 1.0F) {
    if (!backend().SupportsHeadDim(shape.head_dim)) {
      return;
    }
    SCOPED_TRACE(::testing::Message() << shape.num_heads << " heads, " << shape.num_kv_heads << " kv heads of "
                                      << shape.head_dim << ", blocks of " << shape.block_tokens << ", window "
                                      << shape.sliding_window);
    shape.q_stride += 8;
    shape.out_stride += 4;
    std::vector<int64_t> lengths;
    int64_t rows = 0;
    for (size_t s = 0; s < starts.size(); ++s) {
      lengths.push_back(starts[s] + counts[s]);
      rows += counts[s];
    }
    const PagedCache cache(shape, lengths, 21, deviation);
    const AttentionInput input{shape, &cache, RandomFloats(rows * shape.q_stride, 22, deviation), starts, counts};
    // A rounding of a score moves its weight by as much times the score.
    const double size = std::max(1.0, std::pow(static_cast<double>(deviation), 3));
    const auto expected = ReferenceOf(input);
    Compare(backend().AttentionPrefill(input), expected, counts, size * backend().prefill_error(), "prefill");
    if (std::all_of(counts.begin(), counts.end(), [](int64_t count) { return count == 1; })) {
      Compare(backend().AttentionDecode(input), expected, counts, size * backend().decode_error(), "decode");
    }
  }

  void ExpectDecodes(const AttentionShape& shape, const std::vector<int64_t>& lengths) {
    std::vector<int64_t> starts;
    for (const int64_t length : lengths) {
      starts.push_back(length - 1);
    }
    ExpectMatches(shape, starts, std::vector<int64_t>(lengths.size(), 1));
  }

 private:
  static std::vector<double> ReferenceOf(const AttentionInput& input) {
    std::vector<double> expected;
    const float* q = input.q.data();
    for (size_t s = 0; s < input.counts.size(); ++s) {
      const AttentionSequence sequence{q, nullptr, input.counts[s], input.starts[s], input.cache->table(s)};
      const auto one = reference::Attention(input.shape, sequence, input.cache->k().data(), input.cache->v().data());
      expected.insert(expected.end(), one.begin(), one.end());
      q += input.counts[s] * input.shape.q_stride;
    }
    return expected;
  }

  // Each sequence by its own norm.
  static void Compare(const std::vector<float>& got, const std::vector<double>& expected,
                      const std::vector<int64_t>& counts, double tolerance, const char* what) {
    ASSERT_EQ(got.size(), expected.size());
    int64_t rows = 0;
    for (const int64_t count : counts) {
      rows += count;
    }
    const auto size = static_cast<int64_t>(expected.size()) / rows;
    int64_t row = 0;
    for (size_t s = 0; s < counts.size(); ++s) {
      const std::vector<double> want(expected.begin() + row * size, expected.begin() + (row + counts[s]) * size);
      EXPECT_LE(RelativeError(RowsOf(got, size, row, counts[s]), want), tolerance) << what << ", sequence " << s;
      row += counts[s];
    }
  }
};

TEST_P(AttentionTest, EveryHeadSize) {
  for (const int64_t head_dim : {4, 8, 10, 30, 48, 64, 80, 96, 100, 128, 130, 160, 256}) {
    ExpectDecodes(MakeAttentionShape(8, 2, head_dim, 16, 0), kLengths);
    ExpectDecodes(MakeAttentionShape(3, 3, head_dim, 32, 0), {1, 33, 500});
    ExpectDecodes(MakeAttentionShape(4, 2, head_dim, 32, 100), {1, 99, 100, 101, 117, 700});
    ExpectMatches(MakeAttentionShape(2, 2, head_dim, 32, 0), {0, 77, 5}, {1, 65, 40});
    ExpectMatches(MakeAttentionShape(4, 1, head_dim, 16, 30), {0, 150}, {40, 33});
  }
}

TEST_P(AttentionTest, ManyTilesOfQueries) {
  for (const int64_t head_dim : {64, 128}) {
    ExpectMatches(MakeAttentionShape(4, 2, head_dim, 16, 0), {0}, {200});
    ExpectMatches(MakeAttentionShape(2, 1, head_dim, 16, 90), {300}, {130});
  }
}

TEST_P(AttentionTest, GroupsWindowsAndBlocks) {
  for (const int64_t kv_heads : {1, 3, 9}) {
    for (const int64_t window : {0, 1, 7, 33, 1000}) {
      for (const int64_t block_tokens : {1, 16, 24}) {
        const AttentionShape shape = MakeAttentionShape(9, kv_heads, 32, block_tokens, window);
        ExpectDecodes(shape, {1, 40, 80});
        ExpectMatches(shape, {0, 77}, {37, 3});
      }
    }
  }
  ExpectDecodes(MakeAttentionShape(4, 2, 64, 7, 0), {1, 40, 129});
  ExpectMatches(MakeAttentionShape(4, 2, 64, 7, 0), {3}, {40});
}

TEST_P(AttentionTest, ManyHeadsAKeyHead) {
  ExpectMatches(MakeAttentionShape(71, 1, 16, 16, 0), {20}, {3});
  ExpectDecodes(MakeAttentionShape(8, 1, 128, 16, 0), {70, 513});
  ExpectDecodes(MakeAttentionShape(12, 1, 64, 16, 0), {70, 513});
  ExpectDecodes(MakeAttentionShape(28, 4, 128, 16, 0), {200});
  ExpectDecodes(MakeAttentionShape(34, 2, 64, 32, 64), {70, 513});
}

TEST_P(AttentionTest, LongContext) {
  ExpectMatches(MakeAttentionShape(3, 1, 64, 16, 0), {3000}, {2});
  ExpectDecodes(MakeAttentionShape(4, 1, 128, 16, 0), {4096});
}

TEST_P(AttentionTest, LargeScoresDoNotOverflow) {
  ExpectMatches(MakeAttentionShape(2, 1, 64, 16, 0), {100}, {4}, 8.0F);
  ExpectMatches(MakeAttentionShape(2, 1, 64, 16, 0), {100}, {1}, 8.0F);
}

TEST_P(AttentionTest, OnePositionReturnsItsValue) {
  const AttentionShape shape = MakeAttentionShape(2, 1, 64, 16, 0);
  const PagedCache cache(shape, {1}, 5);
  const AttentionInput input{shape, &cache, RandomFloats(shape.q_stride, 6), {0}, {1}};
  const int64_t at = static_cast<int64_t>(cache.table(0)[0]) * shape.block_tokens * shape.head_dim;
  for (const auto& got : {backend().AttentionDecode(input), backend().AttentionPrefill(input)}) {
    for (int64_t i = 0; i < 128; ++i) {
      const double value = reference::HalfToDouble(cache.v()[static_cast<size_t>(at + i % 64)]);
      EXPECT_NEAR(static_cast<double>(got[static_cast<size_t>(i)]), value, 2 * kEpsilon * std::fabs(value));
    }
  }
}

TEST_P(AttentionTest, DecodingDoesNotDependOnTheBatch) {
  const AttentionShape shape = MakeAttentionShape(8, 2, 128, 16, 0);
  const PagedCache cache(shape, kLengths, 9);
  const auto sequences = static_cast<int64_t>(kLengths.size());
  AttentionInput input{shape, &cache, RandomFloats(sequences * shape.q_stride, 10), {}, {}};
  for (const int64_t length : kLengths) {
    input.starts.push_back(length - 1);
    input.counts.push_back(1);
  }
  const auto together = backend().AttentionDecode(input);
  for (int64_t s = 0; s < sequences; ++s) {
    const PagedCache only = cache.Only(static_cast<size_t>(s));
    const AttentionInput one{
        shape, &only, RowsOf(input.q, shape.q_stride, s, 1), {input.starts[static_cast<size_t>(s)]}, {1}};
    EXPECT_EQ(backend().AttentionDecode(one), RowsOf(together, shape.out_stride, s, 1)) << "sequence " << s;
  }
}

FLEXQUANT_INSTANTIATE_BACKEND_TEST(AttentionTest, /*for_products=*/false);

}  // namespace
}  // namespace flexquant
