// What must not change a result: chunks, batch-mates, threads, pages. And what a step counts and refuses.

#include <algorithm>
#include <cmath>
#include <random>

#include "common/rescoring.h"
#include "executor/evaluate.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/reference/reference.h"
#include "tests/executor/test_model.h"

namespace flexquant::executor {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class RunnerTest : public ::testing::Test {
 protected:
  RunnerTest() : model_(TestModel::Random()), runner_(MakeRunner(model_->store(), SmallOptions(model_->store()))) {}

  static std::vector<float> Copy(absl::Span<const float> logits) { return {logits.begin(), logits.end()}; }

  std::unique_ptr<TestModel> model_;
  std::unique_ptr<CpuModelRunner> runner_;
};

TEST_F(RunnerTest, ChunksDoNotChangeLogits) {
  const auto tokens = model_->Tokens(50);
  for (const PrecisionPlan& plan : {model_->Uniform(8), model_->Uniform(16), model_->Mixed(1), model_->Mixed(2)}) {
    const auto whole = AllLogits(*runner_, tokens, plan, Blocks(0, 13), {50});
    EXPECT_EQ(whole, AllLogits(*runner_, tokens, plan, Blocks(0, 13), {1}));
    EXPECT_EQ(whole, AllLogits(*runner_, tokens, plan, Blocks(0, 13), {13, 3, 29, 1}));
  }
}

TEST_F(RunnerTest, ThreadsAndInstructionSetsKeepTheirLogits) {
  const auto tokens = model_->Tokens(50);
  for (const Isa isa : AllIsas()) {
    if (!IsaSupported(isa)) {
      continue;
    }
    std::vector<float> expected;
    for (const int threads : {1, 2, 3, 5}) {
      CpuRunnerOptions options = SmallOptions(model_->store(), 64, threads);
      options.isa = std::string(IsaName(isa));
      const auto runner = MakeRunner(model_->store(), options);
      const auto logits = AllLogits(*runner, tokens, model_->Mixed(1), Blocks(0, 13), {20, 1});
      if (expected.empty()) {
        expected = logits;
      }
      EXPECT_EQ(expected, logits) << threads << " threads, " << IsaName(isa);
    }
  }
}

TEST_F(RunnerTest, PagesInAnyOrderKeepLogits) {
  const auto tokens = model_->Tokens(50);
  const PrecisionPlan plan = model_->Uniform(6);
  std::vector<uint32_t> shuffled = Blocks(0, 64);
  std::mt19937 generator(7);
  std::shuffle(shuffled.begin(), shuffled.end(), generator);
  EXPECT_EQ(AllLogits(*runner_, tokens, plan, Blocks(0, 13), {9}), AllLogits(*runner_, tokens, plan, shuffled, {9}));
}

// Sequences at plans of their own, some in prefill and some in decode, in one step: each as if alone.
TEST_F(RunnerTest, BatchMatesAtOtherPlansDoNotChangeLogits) {
  const std::vector<PrecisionPlan> plans = {model_->Uniform(8), model_->Mixed(1),   model_->Uniform(16),
                                            model_->Mixed(2),   model_->Uniform(3), model_->Mixed(1)};
  const size_t prompt = 12;
  std::vector<std::vector<uint32_t>> tokens;
  std::vector<std::vector<float>> alone;
  std::vector<std::vector<uint32_t>> blocks;
  const auto lone_runner = MakeRunner(model_->store(), SmallOptions(model_->store()));
  for (uint32_t s = 0; s < plans.size(); ++s) {
    tokens.push_back(model_->Tokens(prompt + 5, 100 + s));
    blocks.push_back(Blocks(10 * s, 5));
    alone.push_back(AllLogits(*lone_runner, tokens[s], plans[s], Blocks(0, 5), {tokens[s].size()}));
  }
  const auto vocab = static_cast<size_t>(model_->store().config().vocab_size);
  const auto run = [&](const std::vector<std::pair<size_t, size_t>>& parts) {  // [begin, end) a sequence
    StepBatch batch;
    for (size_t s = 0; s < parts.size(); ++s) {
      const auto [begin, end] = parts[s];
      batch.sequences.push_back(Input(absl::MakeConstSpan(tokens[s]).subspan(begin, end - begin),
                                      static_cast<int64_t>(begin), plans[s], blocks[s]));
    }
    StepOutput output;
    ASSERT_TRUE(runner_->RunStep(batch, &output).ok());
    for (size_t s = 0; s < parts.size(); ++s) {
      const auto [begin, end] = parts[s];
      const std::vector<float> expected(alone[s].begin() + static_cast<ptrdiff_t>(begin * vocab),
                                        alone[s].begin() + static_cast<ptrdiff_t>(end * vocab));
      EXPECT_EQ(Copy(output.sequences[s].logits), expected) << "sequence " << s << " from " << begin;
    }
  };
  run({{0, 12}, {0, 5}, {0, 1}, {0, 12}, {0, 11}, {0, 3}});
  run({{12, 13}, {5, 12}, {1, 12}, {12, 13}, {11, 12}, {3, 17}});
  run({{13, 14}, {12, 13}, {12, 13}, {13, 14}, {12, 13}});
}

TEST_F(RunnerTest, SequencesMayShareBlocks) {
  const auto tokens = model_->Tokens(12);
  const PrecisionPlan plan = model_->Uniform(8);
  const auto alone = AllLogits(*runner_, tokens, plan, {0, 1, 2}, {12});
  const auto vocab = static_cast<size_t>(model_->store().config().vocab_size);
  // Positions 0 to 7 are read from the first sequence's blocks.
  StepOutput output;
  const std::vector<uint32_t> blocks = {0, 1, 9};
  ASSERT_TRUE(runner_->RunStep({{Input(absl::MakeConstSpan(tokens).subspan(8), 8, plan, blocks)}}, &output).ok());
  EXPECT_EQ(Copy(output.sequences[0].logits),
            std::vector<float>(alone.begin() + static_cast<ptrdiff_t>(8 * vocab), alone.end()));
}

TEST_F(RunnerTest, CountsEachWidthOnceAndRescoredRowsForEachToken) {
  const auto bytes = [&](int bits) {
    uint64_t sum = 0;
    for (int group = 0; group < model_->store().num_layer_groups(); ++group) {
      sum += model_->store().layer_group(group).BytesRead(bits);
    }
    return sum;
  };
  const auto tokens = model_->Tokens(3);
  const auto eight = model_->Uniform(8);
  const auto three = model_->Uniform(3);
  StepOutput output;
  const auto read = [&](const StepBatch& batch) {
    EXPECT_TRUE(runner_->RunStep(batch, &output).ok());
    return output.weight_bytes_read;
  };
  const std::vector<uint32_t> a = {0};
  const std::vector<uint32_t> b = {1};
  const std::vector<uint32_t> c = {2};
  EXPECT_EQ(read({{Input(tokens, 0, eight, a)}}), bytes(8));
  // Of every token whose logits are wanted.
  const NestedMatrix& head = model_->store().lm_head();
  const uint64_t again = 3 * (HeadBytesRead(head, 3) - head.BytesRead(3));
  EXPECT_GT(again, 0U);
  EXPECT_EQ(read({{Input(tokens, 0, three, a), Input(tokens, 0, three, b)}}), bytes(3) + 2 * again);
  EXPECT_EQ(read({{Input(tokens, 0, eight, a), Input(tokens, 0, three, b), Input(tokens, 0, eight, c)}}),
            bytes(3) + bytes(8) + again);
  SequenceInput without_logits = Input(tokens, 0, eight, a);
  without_logits.num_logits = 0;
  EXPECT_EQ(read({{without_logits}}), bytes(8) - model_->store().lm_head().BytesRead(8));
  EXPECT_TRUE(output.sequences[0].logits.empty());
}

// From the copy in memory and from the file.
TEST_F(RunnerTest, MappedWeightsGiveTheSameLogits) {
  const auto tokens = model_->Tokens(20);
  CpuRunnerOptions options = SmallOptions(model_->store());
  options.mapped_weights = true;
  const auto mapped = MakeRunner(model_->store(), options);
  EXPECT_THAT(mapped->info().device, HasSubstr("weights mapped"));
  EXPECT_THAT(runner_->info().device, Not(HasSubstr("weights mapped")));
  for (const uint32_t seed : {1U, 2U}) {
    const PrecisionPlan plan = model_->Mixed(seed);
    EXPECT_EQ(AllLogits(*mapped, tokens, plan, Blocks(0, 5), {20}),
              AllLogits(*runner_, tokens, plan, Blocks(0, 5), {20}));
  }
}

// 8-bit keys and values: near those of fp16, and the same bits however tokens are cut into steps, how many threads
// share a context and what runs beside.
TEST_F(RunnerTest, ByteKeysAndValuesDoNotDependOnStepsOrThreads) {
  const auto tokens = model_->Tokens(20);
  const PrecisionPlan plan = model_->Uniform(8);
  CpuRunnerOptions options = SmallOptions(model_->store());
  options.kv_block_tokens = 16;
  options.kv_cache_bits = 8;
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 4}) {
    options.num_threads = threads;
    const auto runner = MakeRunner(model_->store(), options);
    EXPECT_THAT(runner->info().device, HasSubstr("8-bit keys and values"));
    results.push_back(AllLogits(*runner, tokens, plan, Blocks(0, 2), {20}));
    results.push_back(AllLogits(*runner, tokens, plan, Blocks(2, 2), {7, 1, 1, 11}));
  }
  for (const auto& logits : results) {
    EXPECT_EQ(logits, results[0]);
  }
  const auto halves = AllLogits(*runner_, tokens, plan, Blocks(0, 5), {20});
  EXPECT_NE(results[0], halves);
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < halves.size(); ++i) {
    difference += std::pow(static_cast<double>(halves[i]) - static_cast<double>(results[0][i]), 2);
    norm += std::pow(static_cast<double>(halves[i]), 2);
  }
  EXPECT_LT(std::sqrt(difference / norm), 0.03);
}

// 8-bit activations for prompts only, whatever is computed beside them, and the same bits however they are cut.
TEST_F(RunnerTest, CoarsePromptsLeaveEverythingElseAsItWas) {
  const auto tokens = model_->Tokens(20);
  const PrecisionPlan plan = model_->Uniform(8);
  CpuRunnerOptions options = SmallOptions(model_->store());
  options.coarse_prompts = true;
  const auto coarse = MakeRunner(model_->store(), options);
  EXPECT_THAT(coarse->info().device, HasSubstr("prompts of 8-bit activations"));
  const auto fine_logits = AllLogits(*runner_, tokens, plan, Blocks(0, 5), {20});
  EXPECT_EQ(AllLogits(*coarse, tokens, plan, Blocks(0, 5), {20}), fine_logits);

  StepOutput output;
  const auto run = [&](CpuModelRunner& runner, size_t begin, size_t count, int64_t prompt_tokens,
                       const std::vector<uint32_t>& blocks) {
    SequenceInput input =
        Input(absl::MakeConstSpan(tokens).subspan(begin, count), static_cast<int64_t>(begin), plan, blocks);
    input.prompt_tokens = prompt_tokens;
    const std::vector<uint32_t> others = Blocks(20, 5);
    EXPECT_TRUE(runner.RunStep({{input, Input(tokens, 0, plan, others)}}, &output).ok());
    EXPECT_EQ(Copy(output.sequences[1].logits), fine_logits);
    return Copy(output.sequences[0].logits);
  };
  const std::vector<uint32_t> whole = Blocks(0, 5);
  const std::vector<uint32_t> cut = Blocks(5, 5);
  EXPECT_EQ(run(*runner_, 0, 20, 20, whole), fine_logits);
  const auto coarse_logits = run(*coarse, 0, 20, 20, whole);
  EXPECT_NE(coarse_logits, fine_logits);
  auto in_parts = run(*coarse, 0, 7, 7, cut);
  const auto rest = run(*coarse, 7, 13, 13, cut);
  in_parts.insert(in_parts.end(), rest.begin(), rest.end());
  EXPECT_EQ(in_parts, coarse_logits);

  // A prompt of eleven tokens and an answer: token by token, and all at once, as when it goes on elsewhere.
  auto stepwise = run(*coarse, 0, 11, 11, cut);
  for (size_t at = 11; at < tokens.size(); ++at) {
    const auto next = run(*coarse, at, 1, 0, cut);
    stepwise.insert(stepwise.end(), next.begin(), next.end());
  }
  EXPECT_NE(stepwise, coarse_logits);
  EXPECT_EQ(run(*coarse, 0, 20, 11, whole), stepwise);
}

// The likeliest tokens by the head's few bits get the logits that the head has at 8 bits, the others keep theirs.
TEST_F(RunnerTest, ScoresTheLikeliestTokensAgain) {
  const auto tokens = model_->Tokens(20);
  CpuRunnerOptions options = SmallOptions(model_->store());
  options.rescore = false;
  const auto plain_runner = MakeRunner(model_->store(), options);
  const int64_t vocab = model_->store().config().vocab_size;
  const int64_t limit = RescoredRows(vocab);
  const auto top = AllLogits(*runner_, tokens, model_->Uniform(8), Blocks(0, 5), {20});
  EXPECT_EQ(AllLogits(*plain_runner, tokens, model_->Uniform(8), Blocks(0, 5), {20}), top);
  for (const uint8_t bits : {3, 6}) {
    PrecisionPlan plan = model_->Uniform(8);
    plan.bits.back() = bits;
    const auto rescored = AllLogits(*runner_, tokens, plan, Blocks(0, 5), {20});
    const auto plain = AllLogits(*plain_runner, tokens, plan, Blocks(0, 5), {20});
    size_t changed = 0;
    for (int64_t t = 0; t < 20; ++t) {
      const auto likeliest = reference::Likeliest(plain.data() + t * vocab, vocab, limit);
      for (int64_t n = 0; n < vocab; ++n) {
        const auto at = static_cast<size_t>(t * vocab + n);
        if (std::binary_search(likeliest.begin(), likeliest.end(), n)) {
          // Activations of the head at 8 bits have 15 bits, those of rescoring are fp32.
          EXPECT_NEAR(rescored[at], top[at], 1e-3) << bits << " bits, position " << t << ", token " << n;
          changed += rescored[at] != plain[at] ? 1 : 0;
        } else {
          EXPECT_EQ(rescored[at], plain[at]) << bits << " bits, position " << t << ", token " << n;
        }
      }
    }
    EXPECT_GT(changed, 10U) << bits;
  }
}

TEST_F(RunnerTest, SamplesAndKeepsRawLogits) {
  const auto tokens = model_->Tokens(10);
  const PrecisionPlan plan = model_->Uniform(8);
  const std::vector<uint32_t> blocks = Blocks(0, 3);
  const auto expected = AllLogits(*runner_, tokens, plan, blocks, {10});
  const auto vocab = static_cast<size_t>(model_->store().config().vocab_size);
  const std::vector<float> last(expected.end() - static_cast<ptrdiff_t>(vocab), expected.end());
  SamplingConfig config;
  config.presence_penalty = 10;
  TokenCounts counts;
  const auto best = static_cast<uint32_t>(std::max_element(last.begin(), last.end()) - last.begin());
  counts.AddAnswer(best);
  SequenceInput input = Input(tokens, 0, plan, blocks);
  input.num_logits = 1;
  input.sample = SampleSpec{&config, &counts, 0, 2};
  StepOutput output;
  ASSERT_TRUE(runner_->RunStep({{input}}, &output).ok());
  EXPECT_EQ(Copy(output.sequences[0].logits), last);
  ASSERT_TRUE(output.sequences[0].token.has_value());
  EXPECT_NE(output.sequences[0].token->id, best);
  ASSERT_EQ(output.sequences[0].token->top.size(), 2U);
  EXPECT_EQ(output.sequences[0].token->top[0].first, best);
}

TEST_F(RunnerTest, RefusesBadBatches) {
  const auto tokens = model_->Tokens(8);
  const PrecisionPlan plan = model_->Uniform(8);
  const std::vector<uint32_t> blocks = {0, 1};
  const SequenceInput good = Input(tokens, 0, plan, blocks);
  StepOutput output;
  const auto expect = [&](const StepBatch& batch, const std::string& text) {
    const absl::Status status = runner_->RunStep(batch, &output);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  };
  expect({}, "0 sequences; allowed: 1 to 8");
  expect({std::vector<SequenceInput>(9, good)}, "9 sequences");
  const auto many = model_->Tokens(97);
  const std::vector<uint32_t> many_blocks = Blocks(0, 25);
  expect({{Input(many, 0, plan, many_blocks)}}, "97 tokens; allowed: 1 to 96");
  expect({{Input({}, 0, plan, blocks)}}, "no tokens");
  expect({{Input(tokens, 1, plan, blocks)}}, "covers 8 positions; this step needs 9");
  expect({{Input(tokens, 121, plan, blocks)}}, "context of 128");
  expect({{Input(tokens, -1, plan, blocks)}}, "context of 128");
  const std::vector<uint32_t> bad_tokens = {100};
  expect({{Input(bad_tokens, 0, plan, blocks)}}, "token id 100 is out of range; allowed: 0 to 99");
  const std::vector<uint32_t> bad_blocks = {0, 64};
  expect({{Input(tokens, 0, plan, bad_blocks)}}, "KV block 64 is out of range; allowed: 0 to 63");
  const PrecisionPlan short_plan = PrecisionPlan::Uniform(8, 3);
  expect({{Input(tokens, 0, short_plan, blocks)}}, "3");
  PrecisionPlan odd = plan;
  odd.bits[4] = 7;
  expect({{Input(tokens, 0, odd, blocks)}}, "7");
  SequenceInput greedy_for_logits = good;
  greedy_for_logits.num_logits = 9;
  expect({{greedy_for_logits}}, "logits of 9 positions");
  SequenceInput prompt = good;
  prompt.prompt_tokens = 9;
  expect({{prompt}}, "9 of the tokens are a prompt's; allowed: 0 to 8");
  SequenceInput targets = good;
  targets.score_targets = absl::MakeConstSpan(tokens).first(2);
  expect({{targets}}, "2 score targets");
  EXPECT_TRUE(runner_->RunStep({{good}}, &output).ok());
}

TEST_F(RunnerTest, ReportsLogitsThatAreNotFinite) {
  FakeModelSource source(FakeModelSource::TinyConfig());
  source.tensors()["model.norm.weight"].assign(64, 3e38F);
  const TestModel model(source);
  const auto runner = MakeRunner(model.store(), SmallOptions(model.store()));
  const auto tokens = model.Tokens(2);
  const auto plan = model.Uniform(16);
  const std::vector<uint32_t> blocks = {0};
  StepOutput output;
  ASSERT_TRUE(runner->RunStep({{Input(tokens, 0, plan, blocks)}}, &output).ok());
  EXPECT_EQ(output.sequences[0].status.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(output.sequences[0].logits.empty());
}

TEST_F(RunnerTest, RefusesBadOptions) {
  const auto code = [&](auto change) {
    CpuRunnerOptions options = SmallOptions(model_->store());
    change(options);
    const auto runner = CpuModelRunner::Create(model_->store(), options);
    EXPECT_FALSE(runner.ok());
    return runner.status().code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code([](CpuRunnerOptions& o) { o.isa = "mmx"; }), invalid);
  EXPECT_EQ(code([](CpuRunnerOptions& o) { o.num_threads = -1; }), invalid);
  EXPECT_EQ(code([](CpuRunnerOptions& o) { o.kv_block_tokens = 0; }), invalid);
  EXPECT_EQ(code([](CpuRunnerOptions& o) { o.max_sequences = 0; }), invalid);
  EXPECT_EQ(code([](CpuRunnerOptions& o) { o.max_step_tokens = 0; }), invalid);
  EXPECT_EQ(code([](CpuRunnerOptions& o) { o.kv_cache_bytes = 1; }), invalid);
  // However many blocks the protocol allows.
  EXPECT_EQ(code([](CpuRunnerOptions& o) { o.kv_cache_bytes = uint64_t{1} << 46U; }),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(RunnerTest, EvaluateSumsLogLikelihoods) {
  const auto tokens = model_->Tokens(30);
  const PrecisionPlan plan = model_->Mixed(5);
  const auto logits = AllLogits(*runner_, tokens, plan, Blocks(0, 8), {30});
  const auto vocab = static_cast<size_t>(model_->store().config().vocab_size);
  double expected = 0;
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    double sum = 0;
    for (size_t id = 0; id < vocab; ++id) {
      sum += std::exp(static_cast<double>(logits[i * vocab + id]));
    }
    expected += std::log(sum) - static_cast<double>(logits[i * vocab + tokens[i + 1]]);
  }
  const auto chunked = Evaluate(*runner_, tokens, plan, 11);
  ASSERT_TRUE(chunked.ok()) << chunked.status();
  EXPECT_EQ(chunked->num_scored, 29U);
  EXPECT_NEAR(chunked->nll_nats, expected, 1e-4);
  const auto token_by_token = Evaluate(*runner_, tokens, plan, 1);
  ASSERT_TRUE(token_by_token.ok()) << token_by_token.status();
  EXPECT_EQ(token_by_token->nll_nats, chunked->nll_nats);
  EXPECT_GT(token_by_token->weight_bytes_read, chunked->weight_bytes_read);
  for (const int chunk : {0, -1, 97}) {
    EXPECT_EQ(Evaluate(*runner_, tokens, plan, chunk).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(Evaluate(*runner_, model_->Tokens(1), plan, 1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Evaluate(*runner_, model_->Tokens(130), plan, 1).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace flexquant::executor
