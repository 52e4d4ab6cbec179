// What sampling on the device has beside tests/kernels/ops: flags, scores, the next step's tokens, counts.

#include "kernels/cuda/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/reference.h"
#include "tests/kernels/cuda/cuda_backend.h"
#include "tests/kernels/cuda/device_buffer.h"
#include "tests/kernels/cuda/device_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant::cuda {
namespace {

using testing::DeviceBuffer;
using testing::RandomFloats;

class CudaSamplingTest : public testing::DeviceTest {
 protected:
  struct Result {
    std::vector<RowSample> samples;
    std::vector<uint32_t> next_tokens;
    std::vector<uint32_t> counts;
  };

  // `logits` [rows, vocab], `counts` [slots, vocab] or empty.
  static Result Sample(const std::vector<float>& logits, int vocab, const std::vector<RowSampling>& settings,
                       const std::vector<uint32_t>& counts = {}) {
    const auto rows = static_cast<int>(settings.size());
    const DeviceBuffer<float> d_logits(logits);
    const DeviceBuffer<RowSampling> d_settings(settings);
    const DeviceBuffer<RowSample> results(settings.size());
    const DeviceBuffer<uint32_t> next(settings.size());
    const DeviceBuffer<uint32_t> d_counts(counts);
    const DeviceBuffer<uint8_t> workspace(SamplingWorkspaceBytes(rows, vocab));
    SamplingParams p;
    p.logits = d_logits.data();
    p.stride = vocab;
    p.vocab = vocab;
    p.settings = d_settings.data();
    p.token_counts = counts.empty() ? nullptr : d_counts.data();
    p.results = results.data();
    p.next_tokens = next.data();
    p.max_rows = rows;
    p.workspace = workspace.data();
    EXPECT_EQ(LaunchSampling(p, nullptr), cudaSuccess);
    return {results.Download(), next.Download(), d_counts.Download()};
  }
};

TEST_F(CudaSamplingTest, NotFiniteLogitsSetAFlag) {
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    auto logits = RandomFloats(2 * 1000, 3);
    logits[1777] = bad;
    RowSampling settings;
    settings.temperature = 1;
    settings.top_logprobs = 5;
    const auto got = Sample(logits, 1000, {settings, settings}).samples;
    EXPECT_EQ(got[0].flags, 0U);
    EXPECT_EQ(got[1].flags, kSampleNotFinite);
    EXPECT_EQ(got[1].token, 0U);
    EXPECT_EQ(got[1].num_top, 0U);
  }
}

TEST_F(CudaSamplingTest, ScoresTheTokenAskedFor) {
  const double error = testing::MakeCudaBackend()->logit_error();
  for (const int vocab : {1, 3, 511, 128256}) {
    const auto logits = RandomFloats(vocab, 5, 3.0F);
    const double sum = reference::LogitStats(logits.data(), vocab).log_sum_exp;
    for (const int target : {0, vocab / 2, vocab - 1}) {
      RowSampling settings;
      settings.sample = 0;
      settings.score_target = target;
      const RowSample got = Sample(logits, vocab, {settings}).samples[0];
      const double want = static_cast<double>(logits[static_cast<size_t>(target)]) - sum;
      EXPECT_NEAR(static_cast<double>(got.score), want, error * (1 + std::fabs(want))) << vocab << " " << target;
      EXPECT_EQ(got.token, got.argmax);
    }
  }
}

TEST_F(CudaSamplingTest, SampledTokensAreTheNextOnesAndAreCounted) {
  const int vocab = 3001;
  const int rows = 20;
  std::vector<RowSampling> settings;
  for (int row = 0; row < rows; ++row) {
    RowSampling each;
    each.temperature = static_cast<float>(row % 3);
    each.presence_penalty = row % 2 == 0 ? 0.5F : 0.0F;
    each.draw = static_cast<uint64_t>(row);
    each.count_slot = row;
    each.count_sampled = row % 5 == 0 ? 0 : 1;
    settings.push_back(each);
  }
  std::vector<uint32_t> counts(static_cast<size_t>(rows * vocab));
  for (size_t i = 0; i < counts.size(); ++i) {
    counts[i] = static_cast<uint32_t>(i % 4);
  }
  const Result got = Sample(RandomFloats(int64_t{rows} * vocab, 6), vocab, settings, counts);
  for (int row = 0; row < rows; ++row) {
    const uint32_t token = got.samples[static_cast<size_t>(row)].token;
    EXPECT_EQ(got.next_tokens[static_cast<size_t>(row)], token);
    if (settings[static_cast<size_t>(row)].count_sampled != 0) {
      uint32_t& count = counts[static_cast<size_t>(row * vocab) + token];
      count = count == 0 ? 2 : count + 1;  // never seen, or once more in the answer
    }
  }
  EXPECT_EQ(got.counts, counts);
}

TEST_F(CudaSamplingTest, CountsPromptAndAnswerTokens) {
  const DeviceBuffer<uint32_t> counts(std::vector<uint32_t>(10, 7));
  const DeviceBuffer<uint32_t> tokens(std::vector<uint32_t>{3, 4, 3, 99});
  CountTokensParams p{counts.data(), 10, /*clear=*/true, tokens.data(), 4, /*answer=*/false};
  ASSERT_EQ(LaunchCountTokens(p, nullptr), cudaSuccess);
  EXPECT_EQ(counts.Download(), (std::vector<uint32_t>{0, 0, 0, 1, 1, 0, 0, 0, 0, 0}));
  p.clear = false;
  p.answer = true;
  ASSERT_EQ(LaunchCountTokens(p, nullptr), cudaSuccess);
  EXPECT_EQ(counts.Download(), (std::vector<uint32_t>{0, 0, 0, 3, 2, 0, 0, 0, 0, 0}));
}

}  // namespace
}  // namespace flexquant::cuda
