// What can be said of a model's device memory without a device.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "common/store/package_layout.h"
#include "executor/cuda/cuda_forward.h"
#include "executor/cuda/cuda_model_runner.h"
#include "executor/cuda/device_weights.h"
#include "tests/testing/fake_model_source.h"

namespace flexquant::executor {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

ModelConfig Config(int64_t hidden, int64_t intermediate, int64_t layers, int64_t heads, int64_t kv_heads,
                   int64_t head_dim, int64_t vocab, bool tied) {
  ModelConfig config = FakeModelSource::TinyConfig();
  config.hidden_size = hidden;
  config.intermediate_size = intermediate;
  config.num_layers = layers;
  config.num_heads = heads;
  config.num_kv_heads = kv_heads;
  config.head_dim = head_dim;
  config.vocab_size = vocab;
  config.tied_head = tied;
  config.max_context = 8192;
  return config;
}

uint64_t StoreBytes(const ModelConfig& config, int64_t group_size) {
  const auto tensors = PackageTensors(config, group_size, /*has_reference=*/false, Dtype::kBF16);
  return tensors.back().offset + tensors.back().bytes;
}

uint64_t WorkspaceBytes(const ModelConfig& config) {
  const CudaRunnerOptions defaults;
  CudaForwardShape shape;
  shape.kv_block_tokens = defaults.kv_block_tokens;
  shape.max_context = config.max_context;
  shape.max_rows = defaults.max_step_tokens;
  return CudaForward::WorkspaceBytes(config, shape);
}

TEST(DeviceWeightsLayoutTest, ModelsTakeAtMostThreePercentMoreThanStoreAndWorkspace) {
  ModelConfig qwen = Config(4096, 12288, 36, 32, 8, 128, 151936, false);
  qwen.family = "qwen3";
  qwen.qk_norm = true;
  ModelConfig biased = Config(3584, 18944, 28, 28, 4, 128, 152064, false);
  biased.family = "qwen2";
  biased.qkv_bias = true;
  for (const ModelConfig& config :
       {Config(4096, 14336, 32, 32, 8, 128, 128256, false), Config(2048, 8192, 16, 32, 8, 64, 128256, true),
        Config(576, 1536, 30, 9, 3, 64, 49152, true), qwen, biased, Config(100, 172, 2, 3, 3, 20, 203, true)}) {
    for (const int64_t group_size : {64, 128}) {
      SCOPED_TRACE(::testing::Message() << config.hidden_size << " x " << config.num_layers << ", groups of "
                                        << group_size);
      const uint64_t store = StoreBytes(config, group_size);
      const uint64_t weights = DeviceWeights::Bytes(config, group_size);
      const double allowed = 1.03 * static_cast<double>(store + WorkspaceBytes(config));
      EXPECT_LE(static_cast<double>(weights + WorkspaceBytes(config)), allowed);
      EXPECT_LE(static_cast<double>(weights + DeviceWeights::StagingBytes(config, group_size)), allowed)
          << "while loading";
      if (config.hidden_size % 64 == 0) {
        EXPECT_LE(static_cast<double>(weights), 1.001 * static_cast<double>(store));
      }
    }
  }
}

TEST(DeviceWeightsLayoutTest, StagingHoldsATileOfTheWidestMatrix) {
  const ModelConfig config = Config(64, int64_t{4} << 20, 1, 4, 2, 16, 100, true);
  // 16 rows of 8 bits, a scale and a zero of 2 bytes for every 64 columns of each.
  const uint64_t tile = static_cast<uint64_t>(config.intermediate_size) * (16 + 1);
  EXPECT_GE(DeviceWeights::StagingBytes(config, 64), 2 * tile);
  EXPECT_LE(DeviceWeights::StagingBytes(config, 64), 2 * tile + kMiB);
}

TEST(DeviceWeightsLayoutTest, SaysHowMuchDeviceMemoryIsMissing) {
  EXPECT_TRUE(DeviceWeights::CheckFits(100 * kMiB, 20 * kMiB, 120 * kMiB, 200 * kMiB).ok());
  const absl::Status short_by_one = DeviceWeights::CheckFits(100 * kMiB, 20 * kMiB + 1, 120 * kMiB, 200 * kMiB);
  EXPECT_EQ(short_by_one.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(short_by_one.message()), HasSubstr("1 MiB are missing"));
  const absl::Status no_room = DeviceWeights::CheckFits(100 * kMiB, 50 * kMiB, 70 * kMiB, 200 * kMiB);
  EXPECT_THAT(
      std::string(no_room.message()),
      HasSubstr("weights need 100 MiB and buffers 50 MiB of device memory, but 70 of 200 MiB are free: 80 MiB"));
  EXPECT_FALSE(DeviceWeights::CheckFits(1, std::numeric_limits<uint64_t>::max(), 120 * kMiB, 200 * kMiB).ok());
}

}  // namespace
}  // namespace flexquant::executor
