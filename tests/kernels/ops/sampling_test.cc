// Sampling and the signals: what is drawn, and that every backend draws the same.

#include "kernels/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "kernels/reference/reference.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using testing::RandomFloats;
using testing::SampleRow;

SamplingConfig AtTemperature(float temperature) {
  SamplingConfig config;
  config.temperature = temperature;
  return config;
}

const std::vector<float> kLogits = {1.0F, 3.0F, 2.0F, 0.5F, 2.5F, -1.0F, 3.0F, 0.0F};

class SamplingTest : public testing::BackendTest {
 protected:
  SampledToken SampleOne(const std::vector<float>& logits, const SampleRow& row) {
    return backend().Sample(logits, static_cast<int64_t>(logits.size()), {row})[0];
  }

  // Tokens of draws [0, draws).
  std::vector<uint32_t> Draws(const std::vector<float>& logits, const SamplingConfig& config, uint64_t draws) {
    constexpr uint64_t kAtOnce = 2000;
    std::vector<uint32_t> ids;
    for (uint64_t begin = 0; begin < draws; begin += kAtOnce) {
      std::vector<float> copies;
      std::vector<SampleRow> rows;
      for (uint64_t draw = begin; draw < std::min(draws, begin + kAtOnce); ++draw) {
        copies.insert(copies.end(), logits.begin(), logits.end());
        rows.push_back({config, TokenCounts(), draw, 0});
      }
      for (const SampledToken& token : backend().Sample(copies, static_cast<int64_t>(logits.size()), rows)) {
        ids.push_back(token.id);
      }
    }
    return ids;
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
    for (const uint32_t id : Draws(logits, config, draws)) {
      ++seen[id];
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

  void ExpectClose(float got, double want, const char* what) {
    EXPECT_NEAR(static_cast<double>(got), want, backend().logit_error() * (1 + std::fabs(want))) << what;
  }
};

TEST_P(SamplingTest, SignalsMatchTheReference) {
  for (const int64_t n : {1, 2, 3, 15, 16, 17, 31, 33, 511, 1023, 1025, 4096, 32001, 49152, 128256, 262144}) {
    for (const float deviation : {0.0F, 0.1F, 3.0F, 3000.0F}) {
      SCOPED_TRACE(::testing::Message() << n << " logits of deviation " << deviation);
      const auto logits = RandomFloats(n, static_cast<uint32_t>(n), deviation);
      const SampledToken token = SampleOne(logits, {});
      const LogitStats& got = token.stats;
      const auto want = reference::LogitStats(logits.data(), n);
      EXPECT_EQ(static_cast<double>(got.max_logit), want.max_logit);
      EXPECT_EQ(got.argmax, want.argmax);
      EXPECT_EQ(token.id, want.argmax);
      EXPECT_NEAR(static_cast<double>(got.margin), want.margin, 1e-6 * std::fabs(want.max_logit));
      ExpectClose(got.log_sum_exp, want.log_sum_exp, "log_sum_exp");
      ExpectClose(got.entropy_nats, want.entropy_nats, "entropy");
      EXPECT_NEAR(static_cast<double>(got.top1_probability), want.top1_probability,
                  backend().logit_error() * want.top1_probability);
      EXPECT_EQ(token.logprob, logits[token.id] - got.log_sum_exp);
    }
  }
}

TEST_P(SamplingTest, FindsTheFirstOfEqualsWhereverItStands) {
  for (const int64_t n : {3, 40, 5000, 100000}) {
    for (int64_t first = 0; first < n; first += std::max<int64_t>(1, n / 37)) {
      std::vector<float> logits(static_cast<size_t>(n), -1e4F);
      logits[static_cast<size_t>(first)] = 2.0F;
      logits[static_cast<size_t>(n - 1)] = 2.0F;
      const SampledToken token = SampleOne(logits, {});
      EXPECT_EQ(token.id, static_cast<uint32_t>(first));
      EXPECT_EQ(token.stats.argmax, static_cast<uint32_t>(first));
      EXPECT_EQ(token.stats.margin, first == n - 1 ? 2.0F + 1e4F : 0.0F);
    }
  }
}

TEST_P(SamplingTest, GreedyTakesTheSmallestOfEquals) {
  EXPECT_EQ(SampleOne(kLogits, {}).id, 1U);
  EXPECT_EQ(SampleOne(std::vector<float>(1000, 2.0F), {}).id, 0U);
}

TEST_P(SamplingTest, TemperatureAlone) {
  ExpectDistribution(kLogits, AtTemperature(1.0F), {0, 1, 2, 3, 4, 5, 6, 7});
  ExpectDistribution(kLogits, AtTemperature(2.5F), {0, 1, 2, 3, 4, 5, 6, 7});
}

TEST_P(SamplingTest, TopKBreaksTiesBySmallerId) {
  SamplingConfig config = AtTemperature(1.0F);
  config.top_k = 1;
  ExpectDistribution(kLogits, config, {1});
  config.top_k = 3;
  ExpectDistribution(kLogits, config, {1, 6, 4});
  config.top_k = 100;
  ExpectDistribution(kLogits, config, {0, 1, 2, 3, 4, 5, 6, 7});
}

TEST_P(SamplingTest, TopPKeepsTheSmallestSufficientSet) {
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

TEST_P(SamplingTest, TopPActsOnWhatTopKLeft) {
  // Top-k 2 leaves 2/3 and 1/3.
  const std::vector<float> logits = {std::log(2.0F), std::log(4.0F), 0.0F, 0.0F};
  SamplingConfig config = AtTemperature(1.0F);
  config.top_k = 2;
  config.top_p = 0.6F;
  ExpectDistribution(logits, config, {1});
}

TEST_P(SamplingTest, TopPOfALargeFlatVocabulary) {
  SamplingConfig config = AtTemperature(1.0F);
  config.top_p = 0.1F;
  const auto ids = Draws(std::vector<float>(5000, 1.0F), config, 2000);
  const uint32_t largest = *std::max_element(ids.begin(), ids.end());
  EXPECT_LE(largest, 500U);  // 0.1 in float is a little above one tenth
  EXPECT_GT(largest, 480U);
}

TEST_P(SamplingTest, TopPMatchesAFullSort) {
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
    const auto ids = Draws(logits, config, 4000);
    const std::set<uint32_t> seen(ids.begin(), ids.end());
    EXPECT_TRUE(std::includes(nucleus.begin(), nucleus.end(), seen.begin(), seen.end())) << top_p;
    EXPECT_GT(seen.size(), nucleus.size() / 4) << top_p;
  }
}

TEST_P(SamplingTest, MinPDropsWhatIsFarBelowTheBest) {
  const std::vector<float> logits = {std::log(2.0F), std::log(4.0F), 0.0F, std::log(0.9F)};
  SamplingConfig config = AtTemperature(1.0F);
  config.min_p = 0.24F;
  ExpectDistribution(logits, config, {0, 1, 2});
  config.min_p = 0.4F;
  ExpectDistribution(logits, config, {0, 1});
  config.min_p = 1.0F;
  ExpectDistribution(logits, config, {1});
}

TEST_P(SamplingTest, PenaltiesChangeTheTokenAndNotTheSignals) {
  SampleRow row;
  row.counts.AddPrompt(1);
  row.counts.AddPrompt(5);
  row.counts.AddAnswer(6);
  row.counts.AddAnswer(6);
  row.counts.AddAnswer(99);  // outside this vocabulary
  row.config.repetition_penalty = 2.0F;
  row.config.presence_penalty = 0.25F;
  row.config.frequency_penalty = 0.5F;
  // Token 1 falls to 1.5, token 6 to 0.25.
  const SampledToken token = SampleOne(kLogits, row);
  EXPECT_EQ(token.id, 4U);
  EXPECT_EQ(token.stats.argmax, 1U);
  EXPECT_EQ(token.stats.max_logit, 3.0F);
  ExpectClose(token.logprob, 2.5 - reference::LogitStats(kLogits.data(), 8).log_sum_exp, "logprob");
}

TEST_P(SamplingTest, LogprobOfAPenalisedTokenIsTheUnmodifiedOne) {
  SampleRow row;
  row.counts.AddAnswer(1);
  row.config.presence_penalty = 0.1F;
  const SampledToken token = SampleOne({0.0F, 5.0F}, row);
  EXPECT_EQ(token.id, 1U);
  EXPECT_NEAR(static_cast<double>(token.logprob), -std::log1p(std::exp(-5.0)), 1e-6);
}

TEST_P(SamplingTest, TopLogprobsAreSortedWithTiesBySmallerId) {
  const std::vector<uint32_t> order = {1, 6, 4, 2, 0, 3, 7, 5};
  for (const uint32_t top : {1U, 3U, 8U, 20U}) {
    SampleRow row;
    row.top_logprobs = top;
    const SampledToken token = SampleOne(kLogits, row);
    ASSERT_EQ(token.top.size(), std::min<size_t>(top, 8));
    for (size_t i = 0; i < token.top.size(); ++i) {
      EXPECT_EQ(token.top[i].first, order[i]);
      EXPECT_EQ(token.top[i].second, kLogits[order[i]] - token.stats.log_sum_exp);
    }
  }
}

TEST_P(SamplingTest, ExtremeLogitsAndTemperatures) {
  std::vector<float> logits(100, -1e4F);
  logits[42] = 1e4F;
  for (const float temperature : {1e-30F, 0.01F, 1.0F, 100.0F}) {
    for (const float top_p : {0.0F, 0.5F, 1.0F}) {
      for (const uint32_t top_k : {0U, 3U}) {
        for (uint64_t draw = 0; draw < 5; ++draw) {
          SampleRow row{AtTemperature(temperature), {}, draw, 0};
          row.config.top_p = top_p;
          row.config.top_k = top_k;
          const SampledToken token = SampleOne(logits, row);
          EXPECT_EQ(token.id, 42U) << temperature << " " << top_p << " " << top_k;
          EXPECT_EQ(token.logprob, 0.0F);
          EXPECT_EQ(token.stats.entropy_nats, 0.0F);
        }
      }
    }
  }
}

TEST_P(SamplingTest, VocabularyOfOne) {
  SampleRow row{AtTemperature(1.0F), {}, 9, 4};
  row.config.top_k = 5;
  row.config.top_p = 0.5F;
  row.config.min_p = 0.5F;
  const SampledToken token = SampleOne({-3.0F}, row);
  EXPECT_EQ(token.id, 0U);
  EXPECT_NEAR(static_cast<double>(token.logprob), 0.0, 1e-7);
  EXPECT_EQ(token.top.size(), 1U);
  EXPECT_EQ(token.stats.margin, 0.0F);
}

SampleRow RandomRow(std::mt19937& random, int64_t vocab) {
  const auto pick = [&](auto... values) {
    const double options[] = {static_cast<double>(values)...};
    return options[random() % sizeof...(values)];
  };
  SampleRow row;
  row.config.temperature = static_cast<float>(pick(0, 0.3, 0.7, 1, 1, 1.5, 4));
  row.config.top_k = static_cast<uint32_t>(pick(0, 0, 1, 5, 40, 1000));
  row.config.top_p = static_cast<float>(pick(1, 1, 0.999, 0.95, 0.9, 0.5, 0.01));
  row.config.min_p = static_cast<float>(pick(0, 0, 0.05, 0.3));
  row.config.seed = (uint64_t{random()} << 32) | random();
  row.top_logprobs = static_cast<uint32_t>(pick(0, 1, 5, 20));
  if (random() % 2 == 0) {
    row.config.repetition_penalty = static_cast<float>(pick(1, 1.1, 1.5));
    row.config.presence_penalty = static_cast<float>(pick(0, 0.5, -0.3));
    row.config.frequency_penalty = static_cast<float>(pick(0, 0.2));
  }
  for (int i = 0; i < 50; ++i) {
    const auto id = static_cast<uint32_t>(random() % static_cast<unsigned>(vocab));
    if (random() % 2 == 0) {
      row.counts.AddPrompt(id);
    } else {
      row.counts.AddAnswer(id);
    }
  }
  row.draw = random() % 1000;
  return row;
}

TEST_P(SamplingTest, TokensAreThoseOfThePortableKernels) {
  std::mt19937 random(17);
  constexpr int64_t kRows = 20;
  for (const int64_t vocab : {7, 512, 3001, 32000, 128256}) {
    for (const float deviation : {0.0F, 1.0F, 3.0F}) {
      auto logits = RandomFloats(kRows * vocab, random(), deviation);
      if (deviation == 1.0F) {
        for (float& x : logits) {
          x = std::nearbyint(x * 4) / 4;  // many ties
        }
      }
      std::vector<SampleRow> rows;
      for (int64_t i = 0; i < kRows; ++i) {
        rows.push_back(RandomRow(random, vocab));
      }
      const auto got = backend().Sample(logits, vocab, rows);
      for (int64_t i = 0; i < kRows; ++i) {
        const SampleRow& row = rows[static_cast<size_t>(i)];
        const SampledToken& token = got[static_cast<size_t>(i)];
        SCOPED_TRACE(::testing::Message()
                     << "vocab " << vocab << " deviation " << deviation << " row " << i << ": temperature "
                     << row.config.temperature << " top_k " << row.config.top_k << " top_p " << row.config.top_p
                     << " min_p " << row.config.min_p << " penalties " << row.config.repetition_penalty << " "
                     << row.config.presence_penalty << " " << row.config.frequency_penalty);
        std::vector<float> mine(logits.begin() + i * vocab, logits.begin() + (i + 1) * vocab);
        const SampledToken want = SampleToken(GetCpuKernels(Isa::kPortable), absl::MakeSpan(mine), row.config,
                                              row.counts, row.draw, row.top_logprobs);
        EXPECT_EQ(token.id, want.id);
        ExpectClose(token.logprob, static_cast<double>(want.logprob), "logprob");
        ASSERT_EQ(token.top.size(), want.top.size());
        for (size_t t = 0; t < want.top.size(); ++t) {
          EXPECT_EQ(token.top[t].first, want.top[t].first) << t;
          ExpectClose(token.top[t].second, static_cast<double>(want.top[t].second), "top logprob");
        }
      }
    }
  }
}

TEST_P(SamplingTest, DrawsOfManyCountersAreThoseOfThePortableKernels) {
  const auto one = RandomFloats(50, 4, 2.0F);
  SamplingConfig config = AtTemperature(1.3F);
  config.seed = 99;
  std::vector<float> logits;
  std::vector<SampleRow> rows;
  for (uint64_t draw = 0; draw < 500; ++draw) {
    logits.insert(logits.end(), one.begin(), one.end());
    rows.push_back({config, TokenCounts(), draw << (draw % 40), 0});
  }
  const auto got = backend().Sample(logits, 50, rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    auto mine = one;
    EXPECT_EQ(
        got[i].id,
        SampleToken(GetCpuKernels(Isa::kPortable), absl::MakeSpan(mine), config, TokenCounts(), rows[i].draw, 0).id);
  }
}

FLEXQUANT_INSTANTIATE_BACKEND_TEST(SamplingTest, /*for_products=*/false);

}  // namespace
}  // namespace flexquant
