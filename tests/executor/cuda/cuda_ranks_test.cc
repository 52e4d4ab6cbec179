// Tensor parallelism on GPUs: several ranks, on one device and on several, against one rank.

#include "executor/cuda/cuda_ranks.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/executor/cuda/rescored.h"
#include "tests/executor/test_model.h"
#include "tests/kernels/cuda/device_test.h"

namespace flexquant::executor {
namespace {

using ::testing::HasSubstr;

// Where the ranks are: on the first device, or on all in turn.
enum class Place : uint8_t { kOneDevice, kAllDevices };

std::vector<Place> Places() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 1
             ? std::vector<Place>{Place::kOneDevice, Place::kAllDevices}
             : std::vector<Place>{Place::kOneDevice};
}

class CudaRanksTest : public testing::DeviceTest, public ::testing::WithParamInterface<Place> {
 protected:
  void SetUp() override {
    testing::DeviceTest::SetUp();
    const char* loading = std::getenv("CUDA_MODULE_LOADING");
    if (!IsSkipped() && (loading == nullptr || std::string(loading) != "EAGER")) {
      GTEST_SKIP() << "several ranks on one device need CUDA_MODULE_LOADING=EAGER; ctest sets it";
    }
  }

  // As SmolLM2's: three KV heads for two ranks are one and two.
  static ModelConfig Config() {
    ModelConfig config = FakeModelSource::TinyConfig();
    config.hidden_size = 192;
    config.intermediate_size = 512;
    config.num_heads = 9;
    config.num_kv_heads = 3;
    config.head_dim = 64;
    config.vocab_size = 1000;
    config.max_context = 512;
    return config;
  }

  static std::unique_ptr<TestModel> Model(const ModelConfig& config) {
    FakeModelSource source(config);
    return std::make_unique<TestModel>(source, 64);
  }

  static CudaRunnerOptions Options() {
    CudaRunnerOptions options;
    options.max_step_tokens = 256;
    options.kv_cache_bytes = uint64_t{64} << 20;
    return options;
  }

  static std::vector<int> Devices(int ranks) {
    int devices = 1;
    EXPECT_EQ(cudaGetDeviceCount(&devices), cudaSuccess);
    std::vector<int> result;
    for (int rank = 0; rank < ranks; ++rank) {
      result.push_back(GetParam() == Place::kOneDevice ? 0 : rank % devices);
    }
    return result;
  }

  // Null, and a failure, if they cannot be made.
  static std::unique_ptr<TensorParallelRunner> Ranks(const ModelStore& store, int ranks,
                                                     const TensorParallelOptions& parallel = {},
                                                     const CudaRunnerOptions& options = Options()) {
    auto runner = CreateCudaRanks(store, options, Devices(ranks), parallel);
    EXPECT_TRUE(runner.ok()) << runner.status();
    return runner.ok() ? *std::move(runner) : nullptr;
  }

  static std::unique_ptr<CudaModelRunner> Alone(const ModelStore& store) {
    auto runner = CudaModelRunner::Create(store, Options());
    EXPECT_TRUE(runner.ok()) << runner.status();
    return runner.ok() ? *std::move(runner) : nullptr;
  }

  static double RelativeError(const std::vector<float>& found, const std::vector<float>& expected) {
    EXPECT_EQ(found.size(), expected.size());
    double error = 0;
    double norm = 0;
    for (size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
      error += std::pow(static_cast<double>(found[i]) - static_cast<double>(expected[i]), 2);
      norm += std::pow(static_cast<double>(expected[i]), 2);
    }
    return std::sqrt(error / norm);
  }

  static void ExpectAgrees(const ModelConfig& config, const std::vector<int>& sizes) {
    const auto model = Model(config);
    const auto alone = Alone(model->store());
    ASSERT_NE(alone, nullptr);
    const auto tokens = model->Tokens(150);
    for (const int ranks : sizes) {
      const auto together = Ranks(model->store(), ranks);
      ASSERT_NE(together, nullptr);
      EXPECT_EQ(together->info().vocab_size, config.vocab_size);
      for (const PrecisionPlan& plan : {model->Uniform(8), model->Uniform(4), model->Uniform(3), model->Mixed(1)}) {
        SCOPED_TRACE(::testing::Message() << together->info().device << ", " << int{plan.bits[0]} << " bits first");
        for (const std::vector<size_t>& chunks : {std::vector<size_t>{1}, {10, 1}, {100, 1, 20}}) {
          const auto expected = AllLogits(*alone, tokens, plan, Blocks(0, 14), chunks);
          const auto found = AllLogits(*together, tokens, plan, Blocks(3, 14), chunks);
          // Products on fp16 have a rounding of their own; int8 activations move by a step here and there.
          EXPECT_LE(RelativeError(found, expected),
                    plan.bits[0] == 8 && plan.bits[1] == 8 && chunks[0] <= 10 ? 1e-3 : 0.04)
              << "chunk " << chunks[0];
          EXPECT_EQ(found, AllLogits(*together, tokens, plan, Blocks(18, 14), chunks)) << "chunk " << chunks[0];
        }
      }
    }
  }
};

TEST_P(CudaRanksTest, AgreesWithOneRank) { ExpectAgrees(Config(), {2, 3}); }

TEST_P(CudaRanksTest, BiasesNormsAndSharedKvHeads) {
  ModelConfig config = Config();
  config.tied_head = false;
  config.num_heads = 8;
  config.num_kv_heads = 2;
  config.qkv_bias = true;
  config.o_bias = true;
  config.mlp_bias = true;
  config.qk_norm = true;
  ExpectAgrees(config, {2, 4});
}

// Each rank those of its own share, chosen among all.
TEST_P(CudaRanksTest, LikeliestTokensAreScoredAt8Bits) {
  ModelConfig config = Config();
  config.vocab_size = 4000;
  const auto model = Model(config);
  const auto tokens = model->Tokens(30);
  const PrecisionPlan low = WithHead(model->Mixed(1), 4);
  const PrecisionPlan top = WithHead(low, kTopPrecision);
  CudaRunnerOptions plain_options = Options();
  plain_options.rescore = false;
  for (const int ranks : {2, 3}) {
    SCOPED_TRACE(ranks);
    const auto together = Ranks(model->store(), ranks);
    const auto plain = Ranks(model->store(), ranks, {}, plain_options);
    ASSERT_TRUE(together != nullptr && plain != nullptr);
    for (const std::vector<size_t>& chunks : {std::vector<size_t>{1}, {30}}) {
      ExpectRescored(AllLogits(*together, tokens, low, Blocks(0, 2), chunks),
                     AllLogits(*plain, tokens, low, Blocks(0, 2), chunks),
                     AllLogits(*plain, tokens, top, Blocks(0, 2), chunks), config.vocab_size);
    }
  }
}

// Greedy tokens, and a graph that serves any plan.
TEST_P(CudaRanksTest, AThousandPlansThroughOneGraph) {
  const auto model = Model(Config());
  const auto together = Ranks(model->store(), 2);
  const auto alone = Alone(model->store());
  ASSERT_TRUE(together != nullptr && alone != nullptr);
  const auto prompts = {model->Tokens(30, 1), model->Tokens(7, 2)};
  const std::vector<std::vector<uint32_t>> blocks = {Blocks(0, 10), Blocks(10, 10)};
  const SamplingConfig greedy;
  const TokenCounts counts;
  const auto step = [&](ModelRunner& runner, uint32_t seed) {
    const std::vector<PrecisionPlan> plans = {model->Mixed(2 * seed), model->Mixed(2 * seed + 1)};
    StepBatch batch;
    size_t s = 0;
    for (const auto& prompt : prompts) {
      SequenceInput input;
      input.tokens = absl::MakeConstSpan(prompt).last(1);
      input.start = static_cast<int64_t>(prompt.size()) - 1;
      input.plan = &plans[s];
      input.block_table = blocks[s];
      input.num_logits = 1;
      input.sample = SampleSpec{&greedy, &counts, 0, 2};
      batch.sequences.push_back(input);
      ++s;
    }
    StepOutput output;
    const absl::Status status = runner.RunStep(batch, &output);
    EXPECT_TRUE(status.ok()) << status;
    std::vector<float> logits;
    for (const SequenceOutput& sequence : output.sequences) {
      EXPECT_TRUE(sequence.token.has_value());
      logits.insert(logits.end(), sequence.logits.begin(), sequence.logits.end());
      const auto largest = std::max_element(sequence.logits.begin(), sequence.logits.end());
      EXPECT_EQ(sequence.token->id, static_cast<uint32_t>(largest - sequence.logits.begin()));
    }
    return logits;
  };
  for (ModelRunner* runner : {static_cast<ModelRunner*>(together.get()), static_cast<ModelRunner*>(alone.get())}) {
    size_t s = 0;
    for (const auto& prompt : prompts) {
      AllLogits(*runner, prompt, model->Uniform(8), blocks[s++], {64});
    }
  }
  std::vector<std::vector<float>> first;
  for (uint32_t seed = 0; seed < 1000; ++seed) {
    const auto logits = step(*together, seed);
    if (seed < 30) {
      EXPECT_LE(RelativeError(logits, step(*alone, seed)), 0.04) << "plan " << seed;
      first.push_back(logits);
    }
  }
  for (uint32_t seed = 0; seed < 30; ++seed) {
    EXPECT_EQ(step(*together, seed), first[seed]) << "plan " << seed << " again";
  }
}

TEST_P(CudaRanksTest, BatchMatesDoNotChangeASequence) {
  const auto model = Model(Config());
  const auto together = Ranks(model->store(), 2);
  ASSERT_NE(together, nullptr);
  std::vector<PrecisionPlan> plans;
  std::vector<std::vector<uint32_t>> tokens;
  std::vector<std::vector<uint32_t>> blocks;
  for (uint32_t s = 0; s < 9; ++s) {
    plans.push_back(model->Mixed(s));
    tokens.push_back(model->Tokens(1, 70 + s));
    blocks.push_back(Blocks(2 * s, 2));
  }
  const auto run = [&](size_t begin, size_t end) {
    StepBatch batch;
    for (size_t s = begin; s < end; ++s) {
      SequenceInput input;
      input.tokens = tokens[s];
      input.plan = &plans[s];
      input.block_table = blocks[s];
      input.num_logits = 1;
      batch.sequences.push_back(input);
    }
    StepOutput output;
    EXPECT_TRUE(together->RunStep(batch, &output).ok());
    std::vector<std::vector<float>> logits;
    for (const SequenceOutput& sequence : output.sequences) {
      logits.emplace_back(sequence.logits.begin(), sequence.logits.end());
    }
    return logits;
  };
  const auto all = run(0, 9);
  for (size_t s = 0; s < 9; ++s) {
    EXPECT_EQ(run(s, s + 1)[0], all[s]) << s;
  }
}

TEST_P(CudaRanksTest, ARankThatFailsEndsTheGroup) {
  const auto model = Model(Config());
  std::atomic<bool> fail{false};
  TensorParallelOptions parallel;
  parallel.before_step = [&fail](int rank) {
    return fail.load() && rank == 1 ? absl::DataLossError("uncorrectable memory error") : absl::OkStatus();
  };
  const auto together = Ranks(model->store(), 2, parallel);
  ASSERT_NE(together, nullptr);
  const auto tokens = model->Tokens(1);
  const auto plan = model->Uniform(8);
  const auto blocks = Blocks(0, 1);
  SequenceInput input;
  input.tokens = tokens;
  input.plan = &plan;
  input.block_table = blocks;
  input.num_logits = 1;
  StepOutput output;
  ASSERT_TRUE(together->RunStep({{input}}, &output).ok());
  fail = true;
  const absl::Status status = together->RunStep({{input}}, &output);
  EXPECT_EQ(status.message(), "rank 1 of 2 failed: uncorrectable memory error");
  EXPECT_EQ(together->Health(), status);
}

TEST_P(CudaRanksTest, RefusesWhatItCannotDo) {
  const auto model = Model(Config());
  const auto four = CreateCudaRanks(model->store(), Options(), {0, 0, 0, 0}, {});
  EXPECT_THAT(std::string(four.status().message()), HasSubstr("allowed: 1, 2, 3, 6, 9"));
  const auto absent = CreateCudaRanks(model->store(), Options(), {0, 99}, {});
  EXPECT_EQ(absent.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(absent.status().message()), HasSubstr("there is no device cuda:99"));
  ModelConfig narrow = Config();
  narrow.head_dim = 32;
  narrow.num_heads = 3;
  const auto cut = Model(narrow);
  const auto refused = CreateCudaRanks(cut->store(), Options(), {0, 0}, {});
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("heads end inside groups of 64 columns"));
}

INSTANTIATE_TEST_SUITE_P(Places, CudaRanksTest, ::testing::ValuesIn(Places()),
                         [](const auto& test) { return test.param == Place::kOneDevice ? "OneDevice" : "AllDevices"; });

}  // namespace
}  // namespace flexquant::executor
