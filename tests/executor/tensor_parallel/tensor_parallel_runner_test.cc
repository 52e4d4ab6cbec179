#include "executor/tensor_parallel/tensor_parallel_runner.h"

#include <cmath>

#include "executor/evaluate.h"
#include "executor/tensor_parallel/cpu_ranks.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/executor/test_model.h"

namespace flexquant::executor {
namespace {

using ::testing::HasSubstr;

// Heads of 16 in groups of 32: 3, 4 and 8 ranks share what they attended, and 8 ranks the inputs of down.
ModelConfig EightHeads() {
  ModelConfig config = FakeModelSource::TinyConfig();
  config.num_heads = 8;
  config.num_kv_heads = 4;
  config.intermediate_size = 176;
  config.vocab_size = 200;
  config.tied_head = false;
  config.qkv_bias = true;
  config.o_bias = true;
  config.mlp_bias = true;
  config.qk_norm = true;
  return config;
}

class TensorParallelRunnerTest : public ::testing::Test {
 protected:
  TensorParallelRunnerTest() : model_(TestModel::Random(EightHeads())) {}

  std::unique_ptr<TensorParallelRunner> Ranks(int ranks, std::function<absl::Status(int)> before_step = nullptr) const {
    TensorParallelOptions parallel;
    parallel.ranks = ranks;
    parallel.before_step = std::move(before_step);
    auto runner = CreateCpuRanks(model_->store(), SmallOptions(model_->store()), parallel);
    EXPECT_TRUE(runner.ok()) << runner.status();
    return *std::move(runner);
  }

  std::unique_ptr<TestModel> model_;
};

double RelativeError(const std::vector<float>& found, const std::vector<float>& expected) {
  double error = 0;
  double norm = 0;
  EXPECT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(static_cast<double>(found[i]) - static_cast<double>(expected[i]), 2);
    norm += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(error / norm);
}

TEST_F(TensorParallelRunnerTest, LogitsAreThoseOfOneRank) {
  const auto alone = MakeRunner(model_->store(), SmallOptions(model_->store()));
  const auto tokens = model_->Tokens(40);
  for (const int ranks : {1, 2, 3, 4, 8}) {
    const auto together = Ranks(ranks);
    EXPECT_EQ(together->info().vocab_size, alone->info().vocab_size);
    // The order of sums differs, and thereby some activations by a step of int8.
    for (const auto& [plan, tolerance] : {std::pair{model_->Uniform(16), 1e-5}, std::pair{model_->Uniform(8), 1e-4},
                                          std::pair{model_->Uniform(4), 5e-3}, std::pair{model_->Mixed(3), 5e-3}}) {
      const auto expected = AllLogits(*alone, tokens, plan, Blocks(0, 10), {17, 1});
      const auto found = AllLogits(*together, tokens, plan, Blocks(3, 10), {17, 1});
      EXPECT_LE(RelativeError(found, expected), tolerance) << ranks << " ranks, " << int{plan.bits[0]} << " bits";
      EXPECT_EQ(found, AllLogits(*together, tokens, plan, Blocks(20, 10), {9, 1, 3})) << "chunks, " << ranks;
    }
  }
}

// What a batch changes is nothing, at any number of ranks; sampling is that of one rank on the same logits.
TEST_F(TensorParallelRunnerTest, BatchMatesDoNotChangeResults) {
  const auto together = Ranks(2);
  const std::vector<PrecisionPlan> plans = {model_->Uniform(8), model_->Mixed(1), model_->Uniform(16),
                                            model_->Uniform(3), model_->Mixed(2)};
  std::vector<std::vector<uint32_t>> tokens;
  std::vector<std::vector<uint32_t>> blocks;
  SamplingConfig config;
  config.temperature = 0.8F;
  config.top_p = 0.9F;
  config.repetition_penalty = 1.2F;
  config.seed = 5;
  TokenCounts counts;
  counts.AddPrompt(3);
  StepBatch batch;
  for (uint32_t s = 0; s < plans.size(); ++s) {
    tokens.push_back(model_->Tokens(4 + 3 * s, 50 + s));
    blocks.push_back(Blocks(10 * s, 10));
  }
  for (uint32_t s = 0; s < plans.size(); ++s) {
    batch.sequences.push_back(Input(tokens[s], 0, plans[s], blocks[s]));
    batch.sequences.back().sample = SampleSpec{&config, &counts, s, 3};
  }
  StepOutput all;
  ASSERT_TRUE(together->RunStep(batch, &all).ok());
  const auto vocab = static_cast<size_t>(together->info().vocab_size);
  for (size_t s = 0; s < plans.size(); ++s) {
    ASSERT_TRUE(all.sequences[s].token.has_value());
    std::vector<float> row(all.sequences[s].logits.end() - static_cast<ptrdiff_t>(vocab),
                           all.sequences[s].logits.end());
    const std::vector<float> logits(all.sequences[s].logits.begin(), all.sequences[s].logits.end());
    const SampledToken token = *all.sequences[s].token;
    const SampledToken expected = SampleToken(GetCpuKernels(BestIsa()), absl::MakeSpan(row), config, counts, s, 3);
    EXPECT_EQ(token.id, expected.id);
    EXPECT_EQ(token.top, expected.top);
    EXPECT_EQ(token.stats.entropy_nats, expected.stats.entropy_nats);
    EXPECT_EQ(token.stats.margin, expected.stats.margin);

    const auto lone = Ranks(2);
    StepOutput one;
    ASSERT_TRUE(lone->RunStep({{batch.sequences[s]}}, &one).ok());
    EXPECT_EQ(std::vector<float>(one.sequences[0].logits.begin(), one.sequences[0].logits.end()), logits) << s;
    EXPECT_EQ(one.sequences[0].token->id, token.id);
  }
}

TEST_F(TensorParallelRunnerTest, ScoresAreThoseOfOneRank) {
  const auto alone = MakeRunner(model_->store(), SmallOptions(model_->store()));
  const auto tokens = model_->Tokens(60);
  const auto expected = Evaluate(*alone, tokens, model_->Uniform(8), 30);
  const auto found = Evaluate(*Ranks(4), tokens, model_->Uniform(8), 30);
  ASSERT_TRUE(expected.ok() && found.ok());
  EXPECT_EQ(found->num_scored, expected->num_scored);
  EXPECT_NEAR(found->nll_nats, expected->nll_nats, 1e-3 * expected->nll_nats);
}

TEST_F(TensorParallelRunnerTest, CountsTheBytesOfAllRanks) {
  const auto plan = model_->Uniform(4);
  const auto tokens = model_->Tokens(3);
  const auto blocks = Blocks(0, 1);
  StepOutput one;
  StepOutput two;
  ASSERT_TRUE(MakeRunner(model_->store(), SmallOptions(model_->store()))
                  ->RunStep({{Input(tokens, 0, plan, blocks)}}, &one)
                  .ok());
  ASSERT_TRUE(Ranks(2)->RunStep({{Input(tokens, 0, plan, blocks)}}, &two).ok());
  // Tiles and groups that are cut count twice.
  EXPECT_GE(two.weight_bytes_read, one.weight_bytes_read);
  EXPECT_LE(two.weight_bytes_read, one.weight_bytes_read * 5 / 4);
}

TEST_F(TensorParallelRunnerTest, ARankThatFailsEndsTheGroup) {
  std::atomic<bool> fail{false};
  const auto together = Ranks(3, [&fail](int rank) {
    return fail.load() && rank == 1 ? absl::DataLossError("uncorrectable memory error") : absl::OkStatus();
  });
  const auto plan = model_->Uniform(8);
  const auto tokens = model_->Tokens(3);
  const auto blocks = Blocks(0, 1);
  const StepBatch batch{{Input(tokens, 0, plan, blocks)}};
  StepOutput output;
  ASSERT_TRUE(together->RunStep(batch, &output).ok());
  // A step that is refused leaves the group alone.
  EXPECT_EQ(together->RunStep({}, &output).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(together->Health().ok());
  fail = true;
  for (int again = 0; again < 2; ++again) {
    const absl::Status status = together->RunStep(batch, &output);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(status.message(), "rank 1 of 3 failed: uncorrectable memory error");
    EXPECT_EQ(together->Health(), status);
    fail = false;
  }
}

TEST_F(TensorParallelRunnerTest, RefusesWhatDoesNotFit) {
  TensorParallelOptions parallel;
  parallel.ranks = 5;
  CpuRunnerOptions options = SmallOptions(model_->store());
  const auto five = CreateCpuRanks(model_->store(), options, parallel);
  EXPECT_EQ(five.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(five.status().message()), HasSubstr("allowed: 1, 2, 3, 4, 8"));
  parallel.ranks = 2;
  options.kv_cache_bytes = 1;
  const auto small = CreateCpuRanks(model_->store(), options, parallel);
  EXPECT_EQ(small.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(small.status().message()), HasSubstr("rank 0 of 2 failed: a KV cache of 1 bytes"));
}

TEST(StepHashTest, DependsOnWhatIsComputed) {
  const auto model = TestModel::Random();
  const auto tokens = model->Tokens(3);
  const auto blocks = Blocks(0, 2);
  const auto other_blocks = Blocks(1, 2);
  const PrecisionPlan plan = model->Mixed(1);
  PrecisionPlan other = plan;
  other.bits.back() = other.bits.back() == 3 ? 4 : 3;
  const auto input = [&](const PrecisionPlan& of, int64_t start, const std::vector<uint32_t>& table) {
    SequenceInput made;
    made.tokens = tokens;
    made.plan = &of;
    made.start = start;
    made.block_table = table;
    return StepBatch{{made}};
  };
  const uint64_t hash = StepHash(input(plan, 0, blocks));
  EXPECT_EQ(StepHash(input(plan, 0, blocks)), hash);
  EXPECT_NE(StepHash(input(other, 0, blocks)), hash);
  EXPECT_NE(StepHash(input(plan, 1, blocks)), hash);
  EXPECT_NE(StepHash(input(plan, 0, other_blocks)), hash);
}

TEST(StepHashTest, ARankWithAnotherStepIsFound) {
  RankGroup group(2, absl::Minutes(1));
  ThreadPool threads(2);
  threads.Run([&](int rank) {
    EXPECT_TRUE(CheckSameStep(group, rank, 7).ok());
    const absl::Status status = CheckSameStep(group, rank, rank == 0 ? 7 : 8);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(status.message()), HasSubstr("ranks 0 and 1 have different steps"));
  });
}

}  // namespace
}  // namespace flexquant::executor
