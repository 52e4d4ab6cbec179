#include "kernels/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/philox.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cpu/isa_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using testing::RandomFloats;

// Known-answer vectors of Random123 (kat_vectors, philox4x32 with 10 rounds).
TEST(PhiloxTest, MatchesPublishedVectors) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, UniformIsUniformAndReproducible) {
  std::vector<int> bins(20, 0);
  const int draws = 40000;
  for (int i = 0; i < draws; ++i) {
    const double u = PhiloxUniform(7, static_cast<uint64_t>(i));
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    ++bins[static_cast<size_t>(u * 20)];
  }
  double chi_squared = 0;
  for (const int count : bins) {
    chi_squared += std::pow(count - draws / 20.0, 2) / (draws / 20.0);
  }
  EXPECT_LT(chi_squared, 43.8);  // 19 degrees of freedom, p = 0.001
  EXPECT_EQ(PhiloxUniform(7, 3), PhiloxUniform(7, 3));
  EXPECT_NE(PhiloxUniform(7, 3), PhiloxUniform(8, 3));
  EXPECT_NE(PhiloxUniform(7, 3), PhiloxUniform(7, 3 + (uint64_t{1} << 32)));
}

TEST(TokenCountsTest, CountsKeepTheOrderOfFirstSight) {
  TokenCounts counts;
  counts.AddPrompt(70000);
  counts.AddAnswer(3);
  counts.AddAnswer(70000);
  counts.AddAnswer(3);
  EXPECT_EQ(counts.entries(), (std::vector<std::pair<uint32_t, uint32_t>>{{70000, 1}, {3, 2}}));
}

class CpuSamplingTest : public testing::IsaTest {
 protected:
  SampledToken Sample(std::vector<float> logits, uint32_t top) {
    return SampleToken(kernels(), absl::MakeSpan(logits), SamplingConfig(), TokenCounts(), 0, top);
  }
};

TEST_P(CpuSamplingTest, PenaltiesChangeLogitsInPlace) {
  TokenCounts counts;
  counts.AddPrompt(1);
  counts.AddPrompt(5);
  counts.AddAnswer(6);
  counts.AddAnswer(6);
  SamplingConfig config;
  config.repetition_penalty = 2.0F;
  config.presence_penalty = 0.25F;
  config.frequency_penalty = 0.5F;
  std::vector<float> logits = {1.0F, 3.0F, 2.0F, 0.5F, 2.5F, -1.0F, 3.0F, 0.0F};
  SampleToken(kernels(), absl::MakeSpan(logits), config, counts, 0, 0);
  // 3 / 2 - 0.25 - 2 * 0.5 of the token in the answer.
  EXPECT_EQ(logits, (std::vector<float>{1.0F, 1.5F, 2.0F, 0.5F, 2.5F, -2.0F, 0.25F, 0.0F}));
}

TEST_P(CpuSamplingTest, LongTopListsAreSorted) {
  const auto logits = RandomFloats(5000, 61);
  const SampledToken many = Sample(logits, 1000);
  const SampledToken few = Sample(logits, 500);
  ASSERT_EQ(many.top.size(), 1000U);
  EXPECT_TRUE(std::equal(few.top.begin(), few.top.end(), many.top.begin()));
  EXPECT_TRUE(std::is_sorted(many.top.begin(), many.top.end(),
                             [](const auto& a, const auto& b) { return a.second > b.second; }));
}

FLEXQUANT_INSTANTIATE_ISA_TEST(CpuSamplingTest);

class KlDivergenceTest : public testing::IsaTest {};

double Kl(const CpuKernels& kernels, const std::vector<float>& p, const std::vector<float>& q) {
  const auto n = static_cast<int64_t>(p.size());
  return kernels.kl_divergence(p.data(), kernels.logit_stats(p.data(), n).log_sum_exp, q.data(),
                               kernels.logit_stats(q.data(), n).log_sum_exp, n);
}

TEST_P(KlDivergenceTest, MatchesTheReference) {
  for (const int64_t n : {1, 2, 15, 17, 1023, 1025, 49152, 128256}) {
    const auto p = RandomFloats(n, static_cast<uint32_t>(n), 4.0F);
    const auto noise = RandomFloats(n, static_cast<uint32_t>(n) + 1, 1.0F);
    for (const float size : {0.0F, 1e-3F, 1e-2F, 0.3F, 5.0F, 100.0F}) {
      std::vector<float> q = p;
      for (size_t i = 0; i < q.size(); ++i) {
        q[i] += size * noise[i] + 7.0F;
      }
      const double want = reference::KlDivergence(p.data(), q.data(), n);
      EXPECT_NEAR(Kl(kernels(), p, q), want, 2e-6 + 1e-5 * want) << n << " tokens, noise " << size;
    }
  }
}

// Terms of p that underflow count nothing, those of q keep their distance from p.
TEST_P(KlDivergenceTest, OfPeaksIsFinite) {
  for (const size_t n : {3U, 64U, 5000U}) {
    std::vector<float> p(n, -300.0F);
    std::vector<float> q(n, -300.0F);
    p[0] = 100.0F;
    q[1] = 100.0F;
    EXPECT_NEAR(Kl(kernels(), p, q), 400.0, 1e-3);
    EXPECT_EQ(Kl(kernels(), p, p), 0.0);
  }
}

FLEXQUANT_INSTANTIATE_ISA_TEST(KlDivergenceTest);

}  // namespace
}  // namespace flexquant
