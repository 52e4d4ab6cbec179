#include "kernels/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "kernels/philox.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/isa_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using testing::RandomFloats;

const CpuKernels& Best() { return GetCpuKernels(BestIsa()); }

SampledToken Sample(std::vector<float> logits, const SamplingConfig& config, uint64_t draw = 0,
                    const TokenCounts& counts = TokenCounts(), uint32_t top = 0) {
  return SampleToken(Best(), absl::MakeSpan(logits), config, counts, draw, top);
}

SamplingConfig AtTemperature(float temperature) {
  SamplingConfig config;
  config.temperature = temperature;
  return config;
}

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

// Draws match softmax(logits / temperature) restricted to `allowed`.
void ExpectDistribution(const std::vector<float>& logits, const SamplingConfig& config,
                        const std::set<uint32_t>& allowed) {
  std::map<uint32_t, double> expected;
  double total = 0;
  for (const uint32_t id : allowed) {
    expected[id] = std::exp(static_cast<double>(logits[id]) / static_cast<double>(config.temperature));
    total += expected[id];
  }
  std::map<uint32_t, int> seen;
  const int draws = 20000;
  for (int i = 0; i < draws; ++i) {
    ++seen[Sample(logits, config, static_cast<uint64_t>(i)).id];
  }
  for (const auto& [id, count] : seen) {
    ASSERT_TRUE(allowed.count(id) != 0) << "token " << id << " drawn " << count << " times";
  }
  for (const auto& [id, weight] : expected) {
    const double p = weight / total;
    const double deviation = std::sqrt(draws * p * (1 - p)) + 1e-9;
    EXPECT_NEAR(seen[id], draws * p, 4.5 * deviation) << "token " << id;
  }
}

const std::vector<float> kLogits = {1.0F, 3.0F, 2.0F, 0.5F, 2.5F, -1.0F, 3.0F, 0.0F};

TEST(SamplingTest, GreedyTakesTheSmallestOfEquals) {
  EXPECT_EQ(Sample(kLogits, SamplingConfig()).id, 1U);
  EXPECT_EQ(Sample(std::vector<float>(1000, 2.0F), SamplingConfig()).id, 0U);
}

TEST(SamplingTest, TemperatureAlone) {
  ExpectDistribution(kLogits, AtTemperature(1.0F), {0, 1, 2, 3, 4, 5, 6, 7});
  ExpectDistribution(kLogits, AtTemperature(2.5F), {0, 1, 2, 3, 4, 5, 6, 7});
}

TEST(SamplingTest, TopKBreaksTiesBySmallerId) {
  SamplingConfig config = AtTemperature(1.0F);
  config.top_k = 1;
  ExpectDistribution(kLogits, config, {1});
  config.top_k = 3;
  ExpectDistribution(kLogits, config, {1, 6, 4});
  config.top_k = 100;
  ExpectDistribution(kLogits, config, {0, 1, 2, 3, 4, 5, 6, 7});
}

TEST(SamplingTest, TopPKeepsTheSmallestSufficientSet) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> logits = {std::log(2.0F), std::log(4.0F), 0.0F, 0.0F};
  SamplingConfig config = AtTemperature(1.0F);
  config.top_p = 0.45F;
  ExpectDistribution(logits, config, {1});
  config.top_p = 0.7F;
  ExpectDistribution(logits, config, {0, 1});
  config.top_p = 0.8F;
  ExpectDistribution(logits, config, {0, 1, 2});
  config.top_p = 0.9F;
  ExpectDistribution(logits, config, {0, 1, 2, 3});
  config.top_p = 1e-6F;
  ExpectDistribution(logits, config, {1});
}

TEST(SamplingTest, TopPActsOnWhatTopKLeft) {
  // Top-k 2 leaves 2/3 and 1/3.
  const std::vector<float> logits = {std::log(2.0F), std::log(4.0F), 0.0F, 0.0F};
  SamplingConfig config = AtTemperature(1.0F);
  config.top_k = 2;
  config.top_p = 0.6F;
  ExpectDistribution(logits, config, {1});
}

TEST(SamplingTest, TopPOfALargeFlatVocabulary) {
  const std::vector<float> logits(5000, 1.0F);
  SamplingConfig config = AtTemperature(1.0F);
  config.top_p = 0.1F;
  uint32_t largest = 0;
  for (uint64_t draw = 0; draw < 2000; ++draw) {
    largest = std::max(largest, Sample(logits, config, draw).id);
  }
  EXPECT_LE(largest, 500U);  // 0.1 in float is a little above one tenth
  EXPECT_GT(largest, 480U);
}

TEST(SamplingTest, TopPMatchesAFullSort) {
  const auto logits = RandomFloats(3000, 51, 2.0F);
  std::vector<uint32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
  double total = 0;
  for (const float logit : logits) {
    total += std::exp(static_cast<double>(logit) / 1.5);
  }
  SamplingConfig config = AtTemperature(1.5F);
  for (const float top_p : {0.2F, 0.6F, 0.95F}) {
    config.top_p = top_p;
    std::set<uint32_t> nucleus;
    double mass = 0;
    for (size_t i = 0; i < order.size() && mass < static_cast<double>(top_p) * total; ++i) {
      nucleus.insert(order[i]);
      mass += std::exp(static_cast<double>(logits[order[i]]) / 1.5);
    }
    std::set<uint32_t> seen;
    for (uint64_t draw = 0; draw < 4000; ++draw) {
      seen.insert(Sample(logits, config, draw).id);
    }
    EXPECT_TRUE(std::includes(nucleus.begin(), nucleus.end(), seen.begin(), seen.end())) << top_p;
    EXPECT_GT(seen.size(), nucleus.size() / 4) << top_p;
  }
}

TEST(SamplingTest, MinPDropsWhatIsFarBelowTheBest) {
  const std::vector<float> logits = {std::log(2.0F), std::log(4.0F), 0.0F, std::log(0.9F)};
  SamplingConfig config = AtTemperature(1.0F);
  config.min_p = 0.24F;
  ExpectDistribution(logits, config, {0, 1, 2});
  config.min_p = 0.4F;
  ExpectDistribution(logits, config, {0, 1});
  config.min_p = 1.0F;
  ExpectDistribution(logits, config, {1});
}

TEST(SamplingTest, PenaltiesChangeLogitsInPlaceAndStatsDoNot) {
  TokenCounts counts;
  counts.AddPrompt(1);
  counts.AddPrompt(5);
  counts.AddAnswer(6);
  counts.AddAnswer(6);
  counts.AddAnswer(99);  // outside this vocabulary
  SamplingConfig config;
  config.repetition_penalty = 2.0F;
  config.presence_penalty = 0.25F;
  config.frequency_penalty = 0.5F;
  std::vector<float> logits = kLogits;
  const SampledToken token = SampleToken(Best(), absl::MakeSpan(logits), config, counts, 0, 0);
  EXPECT_EQ(logits[1], 1.5F);
  EXPECT_EQ(logits[5], -2.0F);
  EXPECT_EQ(logits[6], 0.25F);  // 3 / 2 - 0.25 - 2 * 0.5
  EXPECT_EQ(logits[0], kLogits[0]);
  EXPECT_EQ(token.id, 4U);
  EXPECT_EQ(token.stats.argmax, 1U);
  EXPECT_EQ(token.stats.max_logit, 3.0F);
  const auto stats = reference::LogitStats(kLogits.data(), 8);
  EXPECT_NEAR(static_cast<double>(token.logprob), 2.5 - stats.log_sum_exp, 1e-6);
}

TEST(SamplingTest, LogprobOfAPenalisedTokenIsTheUnmodifiedOne) {
  TokenCounts counts;
  counts.AddAnswer(1);
  SamplingConfig config;
  config.presence_penalty = 0.1F;
  const std::vector<float> logits = {0.0F, 5.0F};
  const SampledToken token = Sample(logits, config, 0, counts);
  EXPECT_EQ(token.id, 1U);
  EXPECT_NEAR(static_cast<double>(token.logprob), -std::log1p(std::exp(-5.0)), 1e-6);
}

TEST(SamplingTest, CountsKeepTheOrderOfFirstSight) {
  TokenCounts counts;
  counts.AddPrompt(70000);
  counts.AddAnswer(3);
  counts.AddAnswer(70000);
  counts.AddAnswer(3);
  EXPECT_EQ(counts.entries(), (std::vector<std::pair<uint32_t, uint32_t>>{{70000, 1}, {3, 2}}));
}

TEST(SamplingTest, TopLogprobsAreSortedWithTiesBySmallerId) {
  for (const uint32_t top : {1U, 3U, 8U, 20U}) {
    const SampledToken token = Sample(kLogits, SamplingConfig(), 0, TokenCounts(), top);
    const std::vector<uint32_t> order = {1, 6, 4, 2, 0, 3, 7, 5};
    ASSERT_EQ(token.top.size(), std::min<size_t>(top, 8));
    for (size_t i = 0; i < token.top.size(); ++i) {
      EXPECT_EQ(token.top[i].first, order[i]);
      EXPECT_EQ(token.top[i].second, kLogits[order[i]] - token.stats.log_sum_exp);
    }
  }
  const auto logits = RandomFloats(5000, 61);
  const SampledToken many = Sample(logits, SamplingConfig(), 0, TokenCounts(), 1000);
  const SampledToken few = Sample(logits, SamplingConfig(), 0, TokenCounts(), 500);
  ASSERT_EQ(many.top.size(), 1000U);
  EXPECT_TRUE(std::equal(few.top.begin(), few.top.end(), many.top.begin()));
  EXPECT_TRUE(std::is_sorted(many.top.begin(), many.top.end(),
                             [](const auto& a, const auto& b) { return a.second > b.second; }));
}

TEST(SamplingTest, ExtremeLogitsAndTemperatures) {
  std::vector<float> logits(100, -1e4F);
  logits[42] = 1e4F;
  for (const float temperature : {1e-30F, 0.01F, 1.0F, 100.0F}) {
    for (const float top_p : {0.5F, 1.0F}) {
      SamplingConfig config = AtTemperature(temperature);
      config.top_p = top_p;
      for (uint64_t draw = 0; draw < 20; ++draw) {
        const SampledToken token = Sample(logits, config, draw);
        EXPECT_EQ(token.id, 42U) << temperature;
        EXPECT_EQ(token.logprob, 0.0F);
        EXPECT_EQ(token.stats.entropy_nats, 0.0F);
      }
    }
  }
}

TEST(SamplingTest, VocabularyOfOne) {
  SamplingConfig config = AtTemperature(1.0F);
  config.top_k = 5;
  config.top_p = 0.5F;
  config.min_p = 0.5F;
  const SampledToken token = Sample({-3.0F}, config, 9, TokenCounts(), 4);
  EXPECT_EQ(token.id, 0U);
  EXPECT_NEAR(static_cast<double>(token.logprob), 0.0, 1e-7);
  EXPECT_EQ(token.top.size(), 1U);
  EXPECT_EQ(token.stats.margin, 0.0F);
}

class LogitStatsTest : public testing::IsaTest {};

TEST_P(LogitStatsTest, MatchesTheReference) {
  for (const int64_t n : {1, 2, 15, 16, 17, 1023, 1024, 1025, 49152, 128256}) {
    for (const float deviation : {0.0F, 0.1F, 3.0F, 3000.0F}) {
      const auto logits = RandomFloats(n, static_cast<uint32_t>(n), deviation);
      const LogitStats got = kernels().logit_stats(logits.data(), n);
      const auto want = reference::LogitStats(logits.data(), n);
      EXPECT_EQ(static_cast<double>(got.max_logit), want.max_logit);
      EXPECT_EQ(got.argmax, want.argmax) << n;
      EXPECT_NEAR(static_cast<double>(got.margin), want.margin, 1e-6 * std::fabs(want.max_logit));
      EXPECT_NEAR(static_cast<double>(got.log_sum_exp), want.log_sum_exp, 1e-6 * (1 + std::fabs(want.log_sum_exp)));
      EXPECT_NEAR(static_cast<double>(got.entropy_nats), want.entropy_nats, 3e-6 * (1 + want.entropy_nats)) << n;
      EXPECT_NEAR(static_cast<double>(got.top1_probability), want.top1_probability, 2e-6 * want.top1_probability);
    }
  }
}

TEST_P(LogitStatsTest, FindsTheFirstOfEqualsWhereverItStands) {
  for (const int64_t n : {3, 40, 5000}) {
    for (int64_t first = 0; first < n; first += std::max<int64_t>(1, n / 37)) {
      std::vector<float> logits(static_cast<size_t>(n), -1e4F);
      logits[static_cast<size_t>(first)] = 2.0F;
      logits[static_cast<size_t>(n - 1)] = 2.0F;
      const LogitStats stats = kernels().logit_stats(logits.data(), n);
      EXPECT_EQ(stats.argmax, static_cast<uint32_t>(first));
      EXPECT_EQ(stats.margin, first == n - 1 ? 2.0F + 1e4F : 0.0F);
    }
  }
}

double Kl(const CpuKernels& kernels, const std::vector<float>& p, const std::vector<float>& q) {
  const auto n = static_cast<int64_t>(p.size());
  return kernels.kl_divergence(p.data(), kernels.logit_stats(p.data(), n).log_sum_exp, q.data(),
                               kernels.logit_stats(q.data(), n).log_sum_exp, n);
}

TEST_P(LogitStatsTest, DivergenceMatchesTheReference) {
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
TEST_P(LogitStatsTest, DivergenceOfPeaksIsFinite) {
  for (const size_t n : {3U, 64U, 5000U}) {
    std::vector<float> p(n, -300.0F);
    std::vector<float> q(n, -300.0F);
    p[0] = 100.0F;
    q[1] = 100.0F;
    EXPECT_NEAR(Kl(kernels(), p, q), 400.0, 1e-3);
    EXPECT_EQ(Kl(kernels(), p, p), 0.0);
  }
}

TEST_P(LogitStatsTest, SampledTokensAreThoseOfEveryOtherInstructionSet) {
  const auto logits = RandomFloats(2000, 71, 2.0F);
  SamplingConfig config = AtTemperature(0.9F);
  config.top_p = 0.9F;
  for (uint64_t draw = 0; draw < 300; ++draw) {
    auto mine = logits;
    auto plain = logits;
    const auto& portable = GetCpuKernels(Isa::kPortable);
    ASSERT_EQ(SampleToken(kernels(), absl::MakeSpan(mine), config, TokenCounts(), draw, 0).id,
              SampleToken(portable, absl::MakeSpan(plain), config, TokenCounts(), draw, 0).id);
  }
}

FLEXQUANT_INSTANTIATE_ISA_TEST(LogitStatsTest);

}  // namespace
}  // namespace flexquant
