#include "common/store/channel_scales.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/testing/fake_model_source.h"

namespace flexquant {
namespace {

// Two query heads share a kv head in TinyConfig.
constexpr size_t kQkv = 0;
constexpr size_t kO = 1;
constexpr size_t kDown = 3;

ActivationStatistics EvenStatistics(const ModelConfig& config) {
  ActivationStatistics statistics;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const int64_t cols : {config.hidden_size, config.q_size(), config.hidden_size, config.intermediate_size}) {
      statistics.mean_square.emplace_back(static_cast<size_t>(cols), 1.0F);
    }
  }
  statistics.mean_square.emplace_back(static_cast<size_t>(config.hidden_size), 1.0F);
  return statistics;
}

std::vector<ChannelScales> Find(ModelSource& source, const ActivationStatistics& statistics, int num_threads = 2) {
  ChannelScaleOptions options;
  options.group_size = 32;
  options.num_threads = num_threads;
  const auto scales = FindChannelScales(source, statistics, options);
  EXPECT_TRUE(scales.ok()) << scales.status();
  return scales.value();
}

TEST(ChannelScalesTest, EvenActivationsNeedNoScales) {
  FakeModelSource source(FakeModelSource::TinyConfig());
  for (const ChannelScales& block : Find(source, EvenStatistics(source.config()))) {
    for (const std::vector<float>& scales : block) {
      EXPECT_EQ(std::count(scales.begin(), scales.end(), 1.0F), static_cast<std::ptrdiff_t>(scales.size()));
    }
  }
}

TEST(ChannelScalesTest, LargeActivationsGetFinerStepsInPowersOfTwo) {
  FakeModelSource source(FakeModelSource::TinyConfig());
  ActivationStatistics statistics = EvenStatistics(source.config());
  statistics.mean_square[4][7] = 10000;       // layer 1's qkv
  statistics.mean_square[5][16 + 3] = 20000;  // its o: query head 1 of kv head 0
  statistics.mean_square[7][95] = 10000;      // its down
  const std::vector<ChannelScales> scales = Find(source, statistics);
  for (const auto& [kind, channel] :
       {std::pair{kQkv, size_t{7}}, std::pair{kO, size_t{3}}, std::pair{kDown, size_t{95}}}) {
    const std::vector<float>& of_kind = scales[1][kind];
    EXPECT_GE(of_kind[channel], 2 * of_kind[channel - 1]) << kind;
    EXPECT_EQ(std::count(of_kind.begin(), of_kind.end(), of_kind[0]), static_cast<std::ptrdiff_t>(of_kind.size()) - 1);
    for (const float scale : of_kind) {
      EXPECT_EQ(std::exp2(std::round(std::log2(scale))), scale);
    }
  }
  EXPECT_EQ(scales[0][kQkv], std::vector<float>(64, 1.0F));
  EXPECT_EQ(scales, Find(source, statistics, 1));

  for (const std::vector<float>& squares : statistics.mean_square) {
    statistics.moments.emplace_back(static_cast<int64_t>(squares.size()));
  }
  statistics.moments[4].row(0, 7)[9] = 6;
  const ActivationStatistics folded = FoldStatistics(source.config(), scales, statistics);
  EXPECT_EQ(folded.mean_square[4][7], 10000 / (scales[1][kQkv][7] * scales[1][kQkv][7]));
  EXPECT_EQ(folded.mean_square[5][16 + 3], 20000 / (scales[1][kO][3] * scales[1][kO][3]));
  EXPECT_EQ(folded.mean_square.back(), statistics.mean_square.back());
  const std::vector<float>& qkv = scales[1][kQkv];
  EXPECT_EQ(folded.moments[4].row(0, 7)[9], 6 / (qkv[7] * qkv[9]));
}

TEST(ChannelScalesTest, StopsWhenAsked) {
  FakeModelSource source(FakeModelSource::TinyConfig());
  ChannelScaleOptions options;
  options.cancelled = [] { return true; };
  EXPECT_EQ(FindChannelScales(source, EvenStatistics(source.config()), options).status().code(),
            absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace flexquant
