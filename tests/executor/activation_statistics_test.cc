// Activations of the unquantised model, and the model that scales are folded into.

#include "executor/activation_statistics.h"

#include <cmath>
#include <random>

#include "common/store/channel_scales.h"
#include "gtest/gtest.h"
#include "tests/executor/test_model.h"

namespace flexquant::executor {
namespace {

std::vector<ChannelScales> RandomScales(const ModelConfig& config) {
  std::mt19937 generator(9);
  std::vector<ChannelScales> result(static_cast<size_t>(config.num_layers));
  for (ChannelScales& block : result) {
    const int64_t sizes[] = {config.hidden_size, config.kv_size(), config.hidden_size, config.intermediate_size};
    for (size_t kind = 0; kind < block.size(); ++kind) {
      for (int64_t i = 0; i < sizes[kind]; ++i) {
        block[kind].push_back(std::ldexp(1.0F, static_cast<int>(generator() % 7) - 3));
      }
    }
  }
  return result;
}

void ExpectFoldingKeepsEveryBit(const ModelConfig& config, Dtype dtype) {
  FakeModelSource source(config);
  source.set_reference_dtype(dtype);
  const auto folded_source = FoldedSource(source, RandomScales(config));
  TestModel plain(source);
  TestModel folded(*folded_source);
  const std::vector<uint32_t> tokens = plain.Tokens(40);
  const auto logits = [&](const TestModel& model) {
    return AllLogits(*MakeRunner(model.store(), SmallOptions(model.store())), tokens,
                     model.Uniform(kReferencePrecision), Blocks(0, 10), {40});
  };
  EXPECT_EQ(logits(plain), logits(folded));
  EXPECT_NE(plain.store().revision(), folded.store().revision());
}

TEST(FoldedSourceTest, LeavesTheUnquantisedModelBitForBit) {
  ModelConfig config = FakeModelSource::TinyConfig();
  ExpectFoldingKeepsEveryBit(config, Dtype::kF32);
  ExpectFoldingKeepsEveryBit(config, Dtype::kBF16);
  config.tied_head = false;
  config.qkv_bias = true;
  config.o_bias = true;
  config.mlp_bias = true;
  config.qk_norm = true;
  ExpectFoldingKeepsEveryBit(config, Dtype::kF32);
}

TEST(MeasureActivationsTest, AreTheMeanSquaresOfWhatEntersALayer) {
  const auto model = TestModel::Random();
  const ModelConfig& config = model->store().config();
  const std::vector<std::vector<uint32_t>> windows = {model->Tokens(30, 1), model->Tokens(12, 2)};
  ActivationStatisticsOptions options;
  options.num_threads = 2;
  const auto measured = MeasureActivations(model->store(), windows, options);
  ASSERT_TRUE(measured.ok()) << measured.status();
  ASSERT_EQ(measured->mean_square.size(), 9U);
  for (int group = 0; group < 9; ++group) {
    EXPECT_EQ(measured->mean_square[static_cast<size_t>(group)].size(),
              static_cast<size_t>(model->store().layer_group(group).cols));
  }
  // The first block's input is the embedding, normalised.
  const auto hidden = static_cast<size_t>(config.hidden_size);
  std::vector<double> expected(hidden);
  double product = 0;  // of columns 2 and 5
  const auto* embedding = static_cast<const float*>(model->store().embedding().reference);
  for (const std::vector<uint32_t>& window : windows) {
    for (const uint32_t token : window) {
      const float* row = embedding + token * hidden;
      double square = config.rms_norm_eps;
      for (size_t j = 0; j < hidden; ++j) {
        square += std::pow(static_cast<double>(row[j]), 2) / static_cast<double>(hidden);
      }
      std::vector<double> x;
      for (size_t j = 0; j < hidden; ++j) {
        x.push_back(static_cast<double>(row[j]) * static_cast<double>(model->store().block(0).attention_norm[j]));
        expected[j] += x[j] * x[j] / square / 42;
      }
      product += x[2] * x[5] / square / 42;
    }
  }
  for (size_t j = 0; j < hidden; ++j) {
    EXPECT_NEAR(static_cast<double>(measured->mean_square[0][j]), expected[j], 1e-5 * expected[j]) << j;
  }
  // Products of two columns; their diagonal is the mean squares.
  ASSERT_EQ(measured->moments.size(), 9U);
  for (size_t group = 0; group < 9; ++group) {
    const InputMoments& moments = measured->moments[group];
    const std::vector<float>& squares = measured->mean_square[group];
    ASSERT_EQ(moments.cols(), static_cast<int64_t>(squares.size()));
    ASSERT_EQ(moments.num_blocks(), 1);
    for (int64_t j = 0; j < moments.cols(); ++j) {
      const float square = squares[static_cast<size_t>(j)];
      EXPECT_NEAR(moments.row(0, j)[j], square, 1e-5F * square) << "group " << group << ", column " << j;
      EXPECT_EQ(moments.row(0, j)[0], moments.row(0, 0)[j]) << "group " << group << ", column " << j;
    }
  }
  EXPECT_NEAR(static_cast<double>(measured->moments[0].row(0, 2)[5]), product,
              1e-5 * std::sqrt(expected[2] * expected[5]));
  options.num_threads = 1;
  const auto alone = MeasureActivations(model->store(), windows, options);
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_EQ(alone->mean_square, measured->mean_square);
  EXPECT_EQ(alone->moments, measured->moments);
}

TEST(MeasureActivationsTest, RefusesWhatItCannotMeasure) {
  const auto model = TestModel::Random();
  EXPECT_EQ(MeasureActivations(model->store(), {}, {}).status().code(), absl::StatusCode::kInvalidArgument);
  ActivationStatisticsOptions options;
  options.cancelled = [] { return true; };
  EXPECT_EQ(MeasureActivations(model->store(), {model->Tokens(5)}, options).status().code(),
            absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace flexquant::executor
