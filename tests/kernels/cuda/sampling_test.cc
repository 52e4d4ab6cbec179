#include "kernels/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cuda/sampling.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda/device_buffer.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant::cuda {
namespace {

using flexquant::testing::RandomFloats;
using testing::DeviceBuffer;

class SamplingTest : public testing::DeviceTest {
 protected:
  std::vector<RowSample> Sample(const std::vector<float>& logits, int vocab, const std::vector<RowSampling>& settings,
                                DeviceBuffer<uint32_t>* counts = nullptr) {
    const DeviceBuffer<float> d_logits(logits);
    const DeviceBuffer<RowSampling> d_settings(settings);
    DeviceBuffer<RowSample> results(settings.size());
    results.Fill(0x7F);
    DeviceBuffer<uint32_t> next(settings.size());
    const int rows = static_cast<int>(settings.size());
    const DeviceBuffer<uint8_t> workspace(SamplingWorkspaceBytes(rows, vocab));
    SamplingParams p;
    p.logits = d_logits.data();
    p.stride = static_cast<int64_t>(logits.size() / settings.size());
    p.vocab = vocab;
    p.settings = d_settings.data();
    p.token_counts = counts == nullptr ? nullptr : counts->data();
    p.results = results.data();
    p.next_tokens = next.data();
    p.max_rows = rows;
    p.workspace = workspace.data();
    EXPECT_EQ(LaunchSampling(p, nullptr), cudaSuccess);
    auto got = results.Download();
    const auto tokens = next.Download();
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(tokens[i], got[i].token);
    }
    return got;
  }
};

void ExpectClose(float got, double want, const char* what) {
  EXPECT_NEAR(static_cast<double>(got), want, 1e-5 * std::fabs(want) + 1e-6) << what;
}

TEST_F(SamplingTest, StatisticsMatchTheReference) {
  for (const int vocab : {1, 2, 3, 31, 32, 33, 511, 4096, 32001, 128256, 262144}) {
    for (const float deviation : {0.0F, 0.1F, 3.0F, 3000.0F}) {
      const auto logits = RandomFloats(vocab, static_cast<uint32_t>(vocab), deviation);
      RowSampling settings;
      settings.score_target = vocab / 2;
      const auto got = Sample(logits, vocab, {settings})[0];
      const auto want = reference::LogitStats(logits.data(), vocab);
      SCOPED_TRACE(::testing::Message() << vocab << " logits of deviation " << deviation);
      EXPECT_EQ(got.flags, 0U);
      EXPECT_EQ(got.argmax, want.argmax);
      EXPECT_EQ(got.token, want.argmax);
      EXPECT_EQ(static_cast<double>(got.max_logit), want.max_logit);
      EXPECT_NEAR(static_cast<double>(got.margin), want.margin, 1e-6 * std::fabs(want.max_logit));
      ExpectClose(got.log_sum_exp, want.log_sum_exp, "log_sum_exp");
      ExpectClose(got.entropy_nats, want.entropy_nats, "entropy");
      ExpectClose(got.top1_probability, want.top1_probability, "top1");
      ExpectClose(got.score, static_cast<double>(logits[static_cast<size_t>(vocab / 2)]) - want.log_sum_exp, "score");
      EXPECT_EQ(got.logprob, logits[got.token] - got.log_sum_exp);
    }
  }
}

TEST_F(SamplingTest, GreedyTakesTheSmallestOfEquals) {
  for (const int vocab : {3, 40, 5000, 100000}) {
    for (int first = 0; first < vocab; first += std::max(1, vocab / 11)) {
      std::vector<float> logits(static_cast<size_t>(vocab), -1e4F);
      logits[static_cast<size_t>(first)] = 2.0F;
      logits[static_cast<size_t>(vocab - 1)] = 2.0F;
      const auto got = Sample(logits, vocab, {RowSampling()})[0];
      EXPECT_EQ(got.token, static_cast<uint32_t>(first));
      EXPECT_EQ(got.margin, first == vocab - 1 ? 2.0F + 1e4F : 0.0F);
    }
  }
}

TEST_F(SamplingTest, NotFiniteLogitsSetAFlag) {
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    auto logits = RandomFloats(2 * 1000, 3);
    logits[1777] = bad;
    RowSampling settings;
    settings.temperature = 1;
    settings.top_logprobs = 5;
    const auto got = Sample(logits, 1000, {settings, settings});
    EXPECT_EQ(got[0].flags, 0U);
    EXPECT_EQ(got[1].flags, kSampleNotFinite);
    EXPECT_EQ(got[1].token, 0U);
    EXPECT_EQ(got[1].num_top, 0U);
  }
}

// What a row is sampled with, on both sides.
struct Case {
  SamplingConfig config;
  TokenCounts counts;
  RowSampling row;
};

Case RandomCase(std::mt19937& random, int vocab, int slot, std::vector<uint32_t>& histogram) {
  const auto pick = [&](auto... values) {
    const double options[] = {static_cast<double>(values)...};
    return options[random() % sizeof...(values)];
  };
  Case c;
  c.config.temperature = static_cast<float>(pick(0, 0.3, 0.7, 1, 1, 1.5, 4));
  c.config.top_k = static_cast<uint32_t>(pick(0, 0, 1, 5, 40, 1000));
  c.config.top_p = static_cast<float>(pick(1, 1, 0.999, 0.95, 0.9, 0.5, 0.01));
  c.config.min_p = static_cast<float>(pick(0, 0, 0.05, 0.3));
  c.config.seed = (uint64_t{random()} << 32) | random();
  c.row.top_logprobs = static_cast<uint32_t>(pick(0, 1, 5, 20));
  if (random() % 2 == 0) {
    c.config.repetition_penalty = static_cast<float>(pick(1, 1.1, 1.5));
    c.config.presence_penalty = static_cast<float>(pick(0, 0.5, -0.3));
    c.config.frequency_penalty = static_cast<float>(pick(0, 0.2));
  }
  for (int i = 0; i < 50; ++i) {
    const auto id = static_cast<uint32_t>(random() % static_cast<unsigned>(vocab));
    uint32_t& seen = histogram[static_cast<size_t>(slot) * static_cast<size_t>(vocab) + id];
    if (random() % 2 == 0) {
      c.counts.AddPrompt(id);
      seen = std::max(seen, 1U);
    } else {
      c.counts.AddAnswer(id);
      seen = seen == 0 ? 2 : seen + 1;
    }
  }
  c.row.temperature = c.config.temperature;
  c.row.top_k = c.config.top_k;
  c.row.top_p = c.config.top_p;
  c.row.min_p = c.config.min_p;
  c.row.repetition_penalty = c.config.repetition_penalty;
  c.row.presence_penalty = c.config.presence_penalty;
  c.row.frequency_penalty = c.config.frequency_penalty;
  c.row.seed = c.config.seed;
  c.row.draw = random() % 1000;
  c.row.count_slot = slot;
  c.row.count_sampled = 1;
  return c;
}

TEST_F(SamplingTest, TokensAreTheCpus) {
  std::mt19937 random(17);
  constexpr int kRows = 20;
  for (const int vocab : {7, 512, 3001, 32000, 128256}) {
    for (const float deviation : {0.0F, 1.0F, 3.0F}) {
      auto logits = RandomFloats(int64_t{kRows} * vocab, random(), deviation);
      if (deviation == 1.0F) {
        for (float& x : logits) {
          x = std::nearbyint(x * 4) / 4;  // many ties
        }
      }
      std::vector<uint32_t> histogram(static_cast<size_t>(kRows) * static_cast<size_t>(vocab), 0);
      std::vector<Case> cases;
      std::vector<RowSampling> settings;
      for (int i = 0; i < kRows; ++i) {
        cases.push_back(RandomCase(random, vocab, i, histogram));
        settings.push_back(cases.back().row);
      }
      DeviceBuffer<uint32_t> counts(histogram);
      const auto got = Sample(logits, vocab, settings, &counts);
      const auto counted = counts.Download();
      for (size_t i = 0; i < kRows; ++i) {
        const Case& c = cases[i];
        SCOPED_TRACE(::testing::Message()
                     << "vocab " << vocab << " deviation " << deviation << " row " << i << ": temperature "
                     << c.config.temperature << " top_k " << c.config.top_k << " top_p " << c.config.top_p << " min_p "
                     << c.config.min_p << " penalties " << c.config.repetition_penalty << " "
                     << c.config.presence_penalty << " " << c.config.frequency_penalty);
        const auto begin = logits.begin() + static_cast<int64_t>(i) * vocab;
        std::vector<float> mine(begin, begin + vocab);
        const SampledToken want = SampleToken(GetCpuKernels(Isa::kPortable), absl::MakeSpan(mine), c.config, c.counts,
                                              c.row.draw, c.row.top_logprobs);
        EXPECT_EQ(got[i].token, want.id);
        ExpectClose(got[i].logprob, static_cast<double>(want.logprob), "logprob");
        ASSERT_EQ(got[i].num_top, want.top.size());
        for (size_t t = 0; t < want.top.size(); ++t) {
          EXPECT_EQ(got[i].top[t].id, want.top[t].first) << t;
          ExpectClose(got[i].top[t].logprob, static_cast<double>(want.top[t].second), "top logprob");
        }
        const size_t at = i * static_cast<size_t>(vocab) + got[i].token;
        EXPECT_EQ(counted[at], histogram[at] == 0 ? 2 : histogram[at] + 1);
      }
    }
  }
}

TEST_F(SamplingTest, DrawsFollowTheCpuOverManySeeds) {
  const int vocab = 50;
  const auto one = RandomFloats(vocab, 4, 2.0F);
  std::vector<float> logits;
  std::vector<RowSampling> settings;
  for (uint64_t draw = 0; draw < 500; ++draw) {
    logits.insert(logits.end(), one.begin(), one.end());
    RowSampling row;
    row.temperature = 1.3F;
    row.seed = 99;
    row.draw = draw << (draw % 40);
    settings.push_back(row);
  }
  const auto got = Sample(logits, vocab, settings);
  for (size_t i = 0; i < settings.size(); ++i) {
    SamplingConfig config;
    config.temperature = 1.3F;
    config.seed = 99;
    auto mine = one;
    EXPECT_EQ(got[i].token, SampleToken(GetCpuKernels(Isa::kPortable), absl::MakeSpan(mine), config, TokenCounts(),
                                        settings[i].draw, 0)
                                .id);
  }
}

TEST_F(SamplingTest, ExtremeLogitsAndTemperatures) {
  std::vector<float> logits(100, -1e4F);
  logits[42] = 1e4F;
  for (const float temperature : {1e-30F, 0.01F, 1.0F, 100.0F}) {
    for (const float top_p : {0.0F, 0.5F, 1.0F}) {
      RowSampling row;
      row.temperature = temperature;
      row.top_p = top_p;
      row.top_k = 3;
      const auto got = Sample(logits, 100, {row})[0];
      EXPECT_EQ(got.token, 42U) << temperature << " " << top_p;
      EXPECT_EQ(got.logprob, 0.0F);
    }
  }
}

TEST_F(SamplingTest, CountsPromptAndAnswerTokens) {
  DeviceBuffer<uint32_t> counts(std::vector<uint32_t>(10, 7));
  const DeviceBuffer<uint32_t> tokens(std::vector<uint32_t>{3, 4, 3, 99});
  CountTokensParams p;
  p.counts = counts.data();
  p.vocab = 10;
  p.clear = true;
  p.tokens = tokens.data();
  p.num_tokens = 4;
  ASSERT_EQ(LaunchCountTokens(p, nullptr), cudaSuccess);
  EXPECT_EQ(counts.Download(), (std::vector<uint32_t>{0, 0, 0, 1, 1, 0, 0, 0, 0, 0}));
  p.clear = false;
  p.answer = true;
  ASSERT_EQ(LaunchCountTokens(p, nullptr), cudaSuccess);
  EXPECT_EQ(counts.Download(), (std::vector<uint32_t>{0, 0, 0, 3, 2, 0, 0, 0, 0, 0}));
}

}  // namespace
}  // namespace flexquant::cuda
