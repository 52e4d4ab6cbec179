#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/kernels/cpu/isa_test.h"
#include "tests/kernels/paged_cache.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using testing::CpuCache;
using testing::MakeAttentionShape;
using testing::PagedCache;
using testing::RandomFloats;

std::vector<float> Attend(const CpuKernels& kernels, const AttentionShape& shape, const PagedCache& cache,
                          const float* q, int64_t tokens, int64_t start, const std::vector<int64_t>& splits = {}) {
  std::vector<float> out(static_cast<size_t>(tokens * shape.out_stride), -77.0F);
  const AttentionSequence sequence{q, out.data(), tokens, start, cache.table(0)};
  const CpuCache of_cpu(shape, cache);
  std::vector<uint8_t> workspace(AttentionWorkspaceBytes(shape, start + tokens));
  int64_t begin = 0;
  for (const int64_t end : splits) {
    kernels.attention(of_cpu.shape, sequence, of_cpu.k.data(), of_cpu.v.data(), begin, end, workspace.data());
    begin = end;
  }
  kernels.attention(of_cpu.shape, sequence, of_cpu.k.data(), of_cpu.v.data(), begin, shape.num_heads, workspace.data());
  return out;
}

class CpuAttentionTest : public testing::IsaTest {};

TEST_P(CpuAttentionTest, AChunkEqualsItsTokensOneByOneAndAnyHeadSplit) {
  for (const int64_t window : {0, 50}) {
    const AttentionShape shape = MakeAttentionShape(9, 3, 64, 16, window);
    const int64_t start = 30;
    const int64_t tokens = 70;
    const PagedCache cache(shape, {start + tokens}, 31);
    const auto q = RandomFloats(tokens * shape.q_stride, 32);
    const auto whole = Attend(kernels(), shape, cache, q.data(), tokens, start);
    for (int64_t t = 0; t < tokens; ++t) {
      const auto one = Attend(kernels(), shape, cache, q.data() + t * shape.q_stride, 1, start + t);
      ASSERT_TRUE(std::equal(one.begin(), one.end(), whole.begin() + t * shape.out_stride)) << "token " << t;
    }
    EXPECT_EQ(Attend(kernels(), shape, cache, q.data(), tokens, start, {1, 2, 4, 8}), whole);
  }
}

FLEXQUANT_INSTANTIATE_ISA_TEST(CpuAttentionTest);

}  // namespace
}  // namespace flexquant
