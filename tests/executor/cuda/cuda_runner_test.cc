// The GPU runner against the CPU's, and what must not change its results: batch-mates, plans of the steps before.

#include <algorithm>
#include <cmath>
#include <random>

#include "executor/cuda/cuda_model_runner.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/executor/cuda/rescored.h"
#include "tests/executor/test_model.h"
#include "tests/kernels/cuda/device_test.h"

namespace flexquant::executor {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kGroupSize = 64;

// Relative L2 error of each position's logits.
std::vector<double> Errors(const std::vector<float>& a, const std::vector<float>& b, size_t vocab) {
  EXPECT_EQ(a.size(), b.size());
  std::vector<double> errors;
  for (size_t begin = 0; begin < a.size() && a.size() == b.size(); begin += vocab) {
    double error = 0;
    double norm = 0;
    for (size_t i = begin; i < begin + vocab; ++i) {
      const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
      error += difference * difference;
      norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
    }
    errors.push_back(std::sqrt(error / norm));
  }
  std::sort(errors.begin(), errors.end());
  return errors;
}

class CudaRunnerTest : public testing::DeviceTest {
 protected:
  static ModelConfig Config() {
    ModelConfig config = FakeModelSource::TinyConfig();
    config.max_context = 512;
    return config;
  }

  static std::unique_ptr<TestModel> Model(const ModelConfig& config,
                                          int fine_activations_from = kDefaultFineActivationsFrom) {
    FakeModelSource source(config);
    return std::make_unique<TestModel>(source, kGroupSize, fine_activations_from);
  }

  static CudaRunnerOptions Options(bool portable = false) {
    CudaRunnerOptions options;
    options.max_step_tokens = 256;
    options.kv_cache_bytes = uint64_t{256} << 20;
    options.portable = portable;
    return options;
  }

  static std::unique_ptr<CudaModelRunner> Runner(const ModelStore& store, const CudaRunnerOptions& options) {
    auto runner = CudaModelRunner::Create(store, options);
    EXPECT_TRUE(runner.ok()) << runner.status();
    return *std::move(runner);
  }

  // A value that lies between two int8 values goes to one of them here and to the other there, and what follows differs
  // by the noise of quantising, 1 to 2 % in models this small. Chunks that do not take the decode kernels have fp16
  // activations, so all of their positions differ by that.
  static void ExpectAgrees(const ModelConfig& config, bool portable = false) {
    const auto model = Model(config);
    const auto runner = Runner(model->store(), Options(portable));
    const auto cpu = MakeRunner(model->store(), SmallOptions(model->store(), 256));
    const auto vocab = static_cast<size_t>(config.vocab_size);
    const auto tokens = model->Tokens(200);
    const size_t half_rows = portable ? cuda::kMaxGemvRows : CudaForward::kMaxSmallRows;
    for (const PrecisionPlan& plan : {model->Uniform(3), model->Uniform(4), model->Uniform(5), model->Uniform(6),
                                      model->Uniform(8), model->Mixed(1)}) {
      const auto expected = AllLogits(*cpu, tokens, plan, Blocks(0, 60), {50});
      for (const std::vector<size_t>& chunks : {std::vector<size_t>{1}, {60, 1, 64, 3}, {200}}) {
        const auto errors = Errors(AllLogits(*runner, tokens, plan, Blocks(3, 14), chunks), expected, vocab);
        ASSERT_EQ(errors.size(), tokens.size());
        EXPECT_LT(errors[errors.size() / 2], chunks[0] > half_rows ? 0.04 : 0.025)
            << int{plan.bits[0]} << " bits first, chunk " << chunks[0];
        EXPECT_LT(errors.back(), 0.08) << int{plan.bits[0]} << " bits first, chunk " << chunks[0];
      }
    }
  }
};

TEST_F(CudaRunnerTest, AgreesWithTheCpu) { ExpectAgrees(Config()); }
TEST_F(CudaRunnerTest, PortableKernelsAgreeWithTheCpu) { ExpectAgrees(Config(), /*portable=*/true); }

// As RunnerOracleTest has it: until a value is rounded the other way, logits are those of the CPU that rounds as
// coarsely.
TEST_F(CudaRunnerTest, FineActivationsFromEightBits) {
  const auto usual = Model(Config());
  const auto coarse = Model(Config(), 8);
  const auto vocab = static_cast<size_t>(Config().vocab_size);
  const auto tokens = coarse->Tokens(20);
  const PrecisionPlan six = coarse->Uniform(6);
  const auto logits = AllLogits(*Runner(coarse->store(), Options()), tokens, six, Blocks(3, 14), {1});
  const auto of_cpu = [&](const TestModel& model) {
    return AllLogits(*MakeRunner(model.store(), SmallOptions(model.store(), 256)), tokens, six, Blocks(0, 60), {1});
  };
  EXPECT_LT(Errors(logits, of_cpu(*coarse), vocab).front(), 1e-4);
  EXPECT_GT(Errors(logits, of_cpu(*usual), vocab).front(), 1e-4);
}

TEST_F(CudaRunnerTest, UntiedHeadAndOneKvHead) {
  ModelConfig config = Config();
  config.tied_head = false;
  config.num_kv_heads = 1;
  ExpectAgrees(config);
}

TEST_F(CudaRunnerTest, SizesThatFillNoTileOrGroup) {
  ModelConfig config = Config();
  config.hidden_size = 100;
  config.intermediate_size = 172;
  config.num_heads = 3;
  config.num_kv_heads = 3;
  config.head_dim = 20;
  config.vocab_size = 203;
  ExpectAgrees(config);
}

TEST_F(CudaRunnerTest, RealHeadSizes) {
  for (const int64_t head_dim : {64, 80, 96, 128, 256}) {
    ModelConfig config = Config();
    config.head_dim = head_dim;
    ExpectAgrees(config);
  }
}

TEST_F(CudaRunnerTest, SlidingWindow) {
  ModelConfig config = Config();
  config.family = "mistral";
  config.head_dim = 64;
  config.sliding_window = 50;
  ExpectAgrees(config);
}

TEST_F(CudaRunnerTest, Biases) {
  ModelConfig config = Config();
  config.qkv_bias = true;
  config.o_bias = true;
  config.mlp_bias = true;
  ExpectAgrees(config);
}

TEST_F(CudaRunnerTest, QueryAndKeyNorms) {
  ModelConfig config = Config();
  config.family = "qwen3";
  config.qk_norm = true;
  ExpectAgrees(config);
}

// One decode step of some sequences that prefilled a prompt each.
struct Batch {
  std::vector<std::vector<uint32_t>> prompts;
  std::vector<std::vector<uint32_t>> blocks;
  std::vector<uint32_t> next;

  Batch(const TestModel& model, uint32_t count) {
    for (uint32_t s = 0; s < count; ++s) {
      prompts.push_back(model.Tokens(5 + 7 * (s % 9), s + 1));
      blocks.push_back(Blocks(5 * s, 5));
      next.push_back(model.Tokens(1, 100 + s)[0]);
    }
  }

  void Prefill(ModelRunner& runner, const PrecisionPlan& plan) const {
    for (size_t s = 0; s < prompts.size(); ++s) {
      AllLogits(runner, prompts[s], plan, blocks[s], {64});
    }
  }

  // `bytes`: what the step says it has read.
  std::vector<std::vector<float>> Decode(ModelRunner& runner, const std::vector<size_t>& which,
                                         const std::vector<PrecisionPlan>& plans, uint64_t* bytes = nullptr) const {
    StepBatch batch;
    for (const size_t s : which) {
      SequenceInput input;
      input.tokens = absl::MakeConstSpan(next).subspan(s, 1);
      input.start = static_cast<int64_t>(prompts[s].size());
      input.plan = &plans[s];
      input.block_table = blocks[s];
      input.num_logits = 1;
      batch.sequences.push_back(input);
    }
    StepOutput output;
    const absl::Status status = runner.RunStep(batch, &output);
    EXPECT_TRUE(status.ok()) << status;
    if (bytes != nullptr) {
      *bytes = output.weight_bytes_read;
    }
    std::vector<std::vector<float>> logits;
    for (const SequenceOutput& sequence : output.sequences) {
      EXPECT_TRUE(sequence.status.ok()) << sequence.status;
      logits.emplace_back(sequence.logits.begin(), sequence.logits.end());
    }
    return logits;
  }
};

TEST_F(CudaRunnerTest, BatchMatesAndTheirPlansDoNotChangeASequence) {
  const auto model = Model(Config());
  const auto runner = Runner(model->store(), Options());
  const Batch batch(*model, 64);
  batch.Prefill(*runner, model->Uniform(8));
  std::vector<PrecisionPlan> plans;
  for (uint32_t s = 0; s < 64; ++s) {
    plans.push_back(s % 3 == 0 ? model->Uniform(4) : model->Mixed(s));
  }
  std::vector<std::vector<float>> alone;
  for (size_t s = 0; s < 64; ++s) {
    alone.push_back(batch.Decode(*runner, {s}, plans)[0]);
  }
  for (const size_t size : {size_t{2}, size_t{3}, size_t{8}, size_t{13}, size_t{33}, size_t{64}}) {
    std::vector<size_t> which;
    for (size_t i = 0; i < size; ++i) {
      which.push_back((7 * i + 1) % 64);
    }
    const auto together = batch.Decode(*runner, which, plans);
    for (size_t i = 0; i < size; ++i) {
      EXPECT_EQ(together[i], alone[which[i]]) << "batch of " << size << ", sequence " << which[i];
    }
  }
}

// As audits do: what stays in the cache is the last plan's.
TEST_F(CudaRunnerTest, ComputesAPositionAgain) {
  const auto model = Model(Config());
  const auto tokens = model->Tokens(12);
  const std::vector<uint32_t> prompt(tokens.begin(), tokens.begin() + 8);
  const PrecisionPlan top = model->Uniform(8);
  const PrecisionPlan low = model->Mixed(3);
  std::vector<std::vector<float>> logits;
  for (const bool audited : {false, true}) {
    const auto runner = Runner(model->store(), Options());
    ASSERT_TRUE(runner->info().audits);
    const auto blocks = Blocks(0, 5);
    AllLogits(*runner, prompt, top, blocks, {64});
    const auto decode = [&](size_t position, const PrecisionPlan& plan) {
      SequenceInput input;
      input.tokens = absl::MakeConstSpan(tokens).subspan(position, 1);
      input.start = static_cast<int64_t>(position);
      input.plan = &plan;
      input.block_table = blocks;
      input.num_logits = 1;
      StepOutput output;
      EXPECT_TRUE(runner->RunStep({{input}}, &output).ok());
      return std::vector<float>(output.sequences[0].logits.begin(), output.sequences[0].logits.end());
    };
    for (size_t position = prompt.size(); position < tokens.size(); ++position) {
      const std::vector<float> first = audited ? decode(position, top) : std::vector<float>();
      logits.push_back(decode(position, low));
      EXPECT_NE(first, logits.back());
    }
  }
  const size_t half = logits.size() / 2;
  for (size_t i = 0; i < half; ++i) {
    EXPECT_EQ(logits[i], logits[half + i]) << "step " << i;
  }
}

// The graphs are captured once a runner; a fresh runner has captured afresh and has seen no other plan.
TEST_F(CudaRunnerTest, AThousandPlansThroughOneGraphEqualFreshCaptures) {
  const auto model = Model(Config());
  const auto runner = Runner(model->store(), Options());
  const Batch batch(*model, 2);
  batch.Prefill(*runner, model->Uniform(8));
  std::vector<std::vector<float>> seen;
  for (uint32_t step = 0; step < 1000; ++step) {
    const std::vector<PrecisionPlan> plans = {model->Mixed(2 * step), model->Mixed(2 * step + 1)};
    const auto logits = batch.Decode(*runner, {0, 1}, plans);
    if (step % 100 == 99) {
      const auto fresh = Runner(model->store(), Options());
      batch.Prefill(*fresh, model->Uniform(8));
      EXPECT_EQ(batch.Decode(*fresh, {0, 1}, plans), logits) << "step " << step;
    }
    if (step < 50) {
      seen.push_back(logits[0]);
    }
  }
  for (uint32_t step = 0; step < 50; ++step) {
    const std::vector<PrecisionPlan> plans = {model->Mixed(2 * step), model->Mixed(2 * step + 1)};
    EXPECT_EQ(batch.Decode(*runner, {0, 1}, plans)[0], seen[step]) << "plan " << step << " again";
  }
}

// A batch whose heads have all widths, and a chunk, with and without rescoring.
TEST_F(CudaRunnerTest, LikeliestTokensAreScoredAt8Bits) {
  ModelConfig config = Config();
  config.hidden_size = 192;
  config.vocab_size = 4000;
  const auto model = Model(config);
  const std::vector<int> heads = {4, 8, 3, 6, 5, 8, 4};
  std::vector<size_t> which;
  std::vector<PrecisionPlan> plans;
  std::vector<PrecisionPlan> top_plans;
  for (uint32_t s = 0; s < heads.size(); ++s) {
    which.push_back(s);
    plans.push_back(WithHead(model->Mixed(s), heads[s]));
    top_plans.push_back(WithHead(model->Mixed(s), kTopPrecision));
  }
  const Batch batch(*model, static_cast<uint32_t>(heads.size()));
  const auto tokens = model->Tokens(40);
  for (const bool portable : {false, true}) {
    SCOPED_TRACE(portable ? "portable" : "");
    CudaRunnerOptions options = Options(portable);
    const auto runner = Runner(model->store(), options);
    options.rescore = false;
    const auto plain_runner = Runner(model->store(), options);
    batch.Prefill(*runner, model->Uniform(kTopPrecision));
    batch.Prefill(*plain_runner, model->Uniform(kTopPrecision));
    uint64_t bytes = 0;
    uint64_t plain_bytes = 0;
    const auto top = batch.Decode(*runner, which, top_plans, &bytes);
    EXPECT_EQ(batch.Decode(*plain_runner, which, top_plans, &plain_bytes), top);
    EXPECT_EQ(bytes, plain_bytes);
    const auto found = batch.Decode(*runner, which, plans, &bytes);
    const auto plain = batch.Decode(*plain_runner, which, plans, &plain_bytes);
    for (size_t s = 0; s < heads.size(); ++s) {
      SCOPED_TRACE(::testing::Message() << "sequence " << s << ", head of " << heads[s] << " bits");
      if (IsRescored(heads[s])) {
        ExpectRescored(found[s], plain[s], top[s], config.vocab_size);
      } else {
        EXPECT_EQ(found[s], plain[s]);
      }
    }
    const auto rescored = static_cast<uint64_t>(std::count_if(heads.begin(), heads.end(), IsRescored));
    const NestedMatrix& head = model->store().lm_head();
    EXPECT_EQ(bytes - plain_bytes, rescored * (HeadBytesRead(head, 4) - head.BytesRead(4)));

    const auto blocks = Blocks(100, 3);
    ExpectRescored(AllLogits(*runner, tokens, plans[0], blocks, {40}),
                   AllLogits(*plain_runner, tokens, plans[0], blocks, {40}),
                   AllLogits(*plain_runner, tokens, top_plans[0], blocks, {40}), config.vocab_size);
  }
}

TEST_F(CudaRunnerTest, SamplesAndScoresAsTheCpu) {
  const auto model = Model(Config());
  const auto runner = Runner(model->store(), Options());
  const auto cpu = MakeRunner(model->store(), SmallOptions(model->store(), 256));
  const auto plan = model->Uniform(8);
  const auto tokens = model->Tokens(90);
  TokenCounts counts;
  for (const uint32_t token : tokens) {
    counts.AddPrompt(token);
  }
  counts.AddAnswer(tokens[3]);
  counts.AddAnswer(tokens[3]);
  SamplingConfig config;
  config.repetition_penalty = 1.3F;
  config.presence_penalty = 0.4F;
  config.frequency_penalty = 0.2F;
  for (const size_t length : {size_t{1}, size_t{30}, size_t{90}}) {
    std::vector<SampledToken> sampled;
    std::vector<std::vector<float>> scores;
    for (ModelRunner* each : {static_cast<ModelRunner*>(runner.get()), static_cast<ModelRunner*>(cpu.get())}) {
      SequenceInput input;
      input.tokens = absl::MakeConstSpan(tokens).first(length);
      input.plan = &plan;
      const auto blocks = Blocks(0, 30);
      input.block_table = blocks;
      input.sample = SampleSpec{&config, &counts, 0, 5};
      const auto targets = model->Tokens(length, 9);
      input.score_targets = targets;
      StepOutput output;
      ASSERT_TRUE(each->RunStep({{input}}, &output).ok());
      ASSERT_TRUE(output.sequences[0].token.has_value());
      sampled.push_back(*output.sequences[0].token);
      scores.push_back(output.sequences[0].scores);
    }
    EXPECT_NEAR(sampled[0].stats.entropy_nats, sampled[1].stats.entropy_nats, 0.05);
    EXPECT_NEAR(sampled[0].stats.log_sum_exp, sampled[1].stats.log_sum_exp, 0.05);
    EXPECT_EQ(sampled[0].top.size(), 5U);
    ASSERT_EQ(scores[0].size(), length);
    for (size_t i = 0; i < length; ++i) {
      EXPECT_NEAR(scores[0][i], scores[1][i], 0.1) << i;
    }
  }
}

TEST_F(CudaRunnerTest, RefusesWhatItCannotDo) {
  const auto model = Model(Config());
  CudaRunnerOptions options = Options();
  options.device = 99;
  EXPECT_EQ(CudaModelRunner::Create(model->store(), options).status().code(), absl::StatusCode::kNotFound);
  options = Options();
  options.max_sequences = 65;
  EXPECT_THAT(std::string(CudaModelRunner::Create(model->store(), options).status().message()), HasSubstr("1 to 64"));
  options = Options();
  options.kv_cache_bytes = uint64_t{1} << 50;
  const absl::Status too_much = CudaModelRunner::Create(model->store(), options).status();
  EXPECT_EQ(too_much.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(too_much.message()), HasSubstr("missing"));
  const auto old_groups = TestModel::Random(Config());  // groups of 32
  EXPECT_THAT(std::string(CudaModelRunner::Create(old_groups->store(), Options()).status().message()),
              HasSubstr("--group-size 64"));
}

}  // namespace
}  // namespace flexquant::executor
