// Plans compared with the top precision: as if each had run a whole pass of its own.

#include "executor/calibration_forward.h"

#include <algorithm>
#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/reference/reference.h"
#include "tests/executor/test_model.h"

namespace flexquant::executor {
namespace {

using ::testing::HasSubstr;

class CalibrationForwardTest : public ::testing::Test {
 protected:
  CalibrationForwardTest() : model_(TestModel::Random()) {}

  std::unique_ptr<CalibrationForward> Make(CalibrationForward::Options options = {}) {
    options.num_threads = std::max(options.num_threads, 1);
    options.max_positions = 60;
    auto forward = CalibrationForward::Create(model_->store(), std::move(options));
    EXPECT_TRUE(forward.ok()) << forward.status();
    return *std::move(forward);
  }

  PrecisionPlan Lowered(int group, int bits) const {
    PrecisionPlan plan = model_->Uniform(kTopPrecision);
    plan.bits[static_cast<size_t>(group)] = static_cast<uint8_t>(bits);
    return plan;
  }

  std::unique_ptr<TestModel> model_;
};

TEST_F(CalibrationForwardTest, DivergencesAreThoseOfWholePasses) {
  const auto runner = MakeRunner(model_->store(), SmallOptions(model_->store()));
  const auto forward = Make();
  const auto tokens = model_->Tokens(50);
  const std::vector<uint32_t> inputs(tokens.begin(), tokens.end() - 1);
  const auto vocab = static_cast<size_t>(model_->store().config().vocab_size);
  const auto top = AllLogits(*runner, inputs, model_->Uniform(8), Blocks(0, 13), {inputs.size()});
  ASSERT_TRUE(forward->SetWindow(tokens).ok());
  ASSERT_EQ(forward->top().size(), inputs.size());

  std::vector<PrecisionPlan> plans = {model_->Uniform(8), model_->Uniform(3), model_->Mixed(1), model_->Mixed(2)};
  // From the last group to the first: what an early block leaves in the KV cache must not reach a later measurement.
  for (int group = model_->store().num_layer_groups() - 1; group >= 0; --group) {
    plans.push_back(Lowered(group, 3 + group % 3));
    plans.push_back(Lowered(group, 6));
  }
  for (const PrecisionPlan& plan : plans) {
    const auto logits = AllLogits(*runner, inputs, plan, Blocks(0, 13), {inputs.size()});
    const auto measured = forward->Measure(plan);
    ASSERT_TRUE(measured.ok()) << measured.status();
    ASSERT_EQ(measured->size(), inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      const float* p = top.data() + i * vocab;
      const float* q = logits.data() + i * vocab;
      const auto n = static_cast<int64_t>(vocab);
      const auto p_stats = reference::LogitStats(p, n);
      const auto q_stats = reference::LogitStats(q, n);
      const double kl = reference::KlDivergence(p, q, n);
      EXPECT_NEAR((*measured)[i].kl_nats, kl, 1e-6 + 1e-5 * kl);
      EXPECT_NEAR((*measured)[i].nll_nats, q_stats.log_sum_exp - static_cast<double>(q[tokens[i + 1]]), 1e-5);
      EXPECT_EQ((*measured)[i].top1_agrees, p_stats.argmax == q_stats.argmax);
      EXPECT_NEAR(forward->top()[i].signals.entropy_nats, p_stats.entropy_nats, 1e-5);
      EXPECT_NEAR(forward->top()[i].nll_nats, p_stats.log_sum_exp - static_cast<double>(p[tokens[i + 1]]), 1e-5);
    }
  }
}

// What settings of a backend lose is what runners with them lose, and leaves the plans' measurements alone.
TEST_F(CalibrationForwardTest, LossesAreThoseOfRunnersWithTheSettings) {
  const auto tokens = model_->Tokens(41);
  const auto inputs = absl::MakeConstSpan(tokens).first(40);
  const PrecisionPlan top = model_->Uniform(kTopPrecision);
  const auto vocab = static_cast<int64_t>(model_->store().config().vocab_size);
  const std::vector<uint32_t> blocks = {0, 1, 2};
  const auto logits = [&](bool coarse_prompts, int kv_cache_bits) {
    CpuRunnerOptions options = SmallOptions(model_->store());
    options.kv_block_tokens = 16;
    options.coarse_prompts = coarse_prompts;
    options.kv_cache_bits = kv_cache_bits;
    const auto runner = MakeRunner(model_->store(), options);
    SequenceInput input;
    input.tokens = inputs;
    input.plan = &top;
    input.block_table = blocks;
    input.prompt_tokens = 20;
    input.num_logits = 40;
    StepOutput output;
    EXPECT_TRUE(runner->RunStep({{input}}, &output).ok());
    return std::vector<float>(output.sequences[0].logits.begin(), output.sequences[0].logits.end());
  };
  const auto forward = Make();
  ASSERT_TRUE(forward->SetWindow(tokens).ok());
  const auto exact = logits(false, 16);
  const auto expect = [&](const absl::StatusOr<std::vector<PositionDivergence>>& measured,
                          const std::vector<float>& coarse, size_t first) {
    ASSERT_TRUE(measured.ok()) << measured.status();
    ASSERT_EQ(measured->size(), 40 - first);
    double sum = 0;
    for (size_t i = first; i < 40; ++i) {
      const auto at = static_cast<ptrdiff_t>(i) * vocab;
      const double kl = reference::KlDivergence(exact.data() + at, coarse.data() + at, vocab);
      EXPECT_NEAR((*measured)[i - first].kl_nats, kl, 1e-6 + 1e-3 * kl);
      sum += kl;
    }
    EXPECT_GT(sum, 1e-5);
  };
  const auto before = forward->Measure(model_->Uniform(4));
  expect(forward->MeasureKvCache8(), logits(false, 8), 0);
  expect(forward->MeasureCoarsePrompts(), logits(true, 16), 20);
  const auto after = forward->Measure(model_->Uniform(4));
  ASSERT_TRUE(before.ok() && after.ok());
  for (size_t i = 0; i < before->size(); ++i) {
    EXPECT_EQ((*after)[i].kl_nats, (*before)[i].kl_nats);
  }
}

TEST_F(CalibrationForwardTest, ThePartOfAPassGivesTheLogitsOfTheWhole) {
  const auto runner = MakeRunner(model_->store(), SmallOptions(model_->store()));
  const auto tokens = model_->Tokens(40);
  const auto blocks = Blocks(0, 10);
  const PrecisionPlan top = model_->Uniform(8);
  const auto run = [&](const PrecisionPlan& plan, const PassStart& start, BlockObserver observe) {
    SequenceInput input;
    input.tokens = tokens;
    input.plan = &plan;
    input.block_table = blocks;
    input.num_logits = static_cast<int64_t>(tokens.size());
    StepOutput output;
    EXPECT_TRUE(runner->RunFrom({{input}}, start, observe, &output).ok());
    const auto logits = output.sequences[0].logits;
    return std::vector<float>(logits.begin(), logits.end());
  };
  std::vector<std::vector<float>> hidden;
  run(top, {}, [&](int64_t block, absl::Span<const float> state) {
    EXPECT_EQ(block, static_cast<int64_t>(hidden.size()));
    hidden.emplace_back(state.begin(), state.end());
    return absl::OkStatus();
  });
  ASSERT_EQ(hidden.size(), 3U);
  for (int group = 0; group < model_->store().num_layer_groups(); ++group) {
    const PrecisionPlan plan = Lowered(group, 4);
    const int64_t block = group / kLayerGroupsPerBlock;
    int64_t next = block;
    const auto part = run(plan, {block, hidden[static_cast<size_t>(block)]}, [&](int64_t at, absl::Span<const float>) {
      EXPECT_EQ(at, next++);
      return absl::OkStatus();
    });
    EXPECT_EQ(next, 3);
    EXPECT_EQ(part, AllLogits(*runner, tokens, plan, blocks, {tokens.size()})) << "layer group " << group;
  }
}

TEST_F(CalibrationForwardTest, ThreadsDoNotChangeDivergences) {
  const auto tokens = model_->Tokens(61);
  const PrecisionPlan plan = model_->Mixed(3);
  std::vector<double> expected;
  for (const int threads : {1, 2, 3}) {
    CalibrationForward::Options options;
    options.num_threads = threads;
    const auto forward = Make(std::move(options));
    ASSERT_TRUE(forward->SetWindow(tokens).ok());
    const auto measured = forward->Measure(plan);
    ASSERT_TRUE(measured.ok()) << measured.status();
    std::vector<double> got;
    for (const PositionDivergence& position : *measured) {
      got.push_back(position.kl_nats);
    }
    expected = expected.empty() ? got : expected;
    EXPECT_EQ(got, expected) << threads << " threads";
  }
}

TEST_F(CalibrationForwardTest, RefusesWhatItCannotDo) {
  const auto forward = Make();
  for (const auto& status : {forward->Measure(model_->Uniform(4)).status(), forward->MeasureKvCache8().status(),
                             forward->MeasureCoarsePrompts().status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  }
  for (const size_t count : {0U, 1U, 62U}) {
    EXPECT_EQ(forward->SetWindow(model_->Tokens(count)).code(), absl::StatusCode::kInvalidArgument) << count;
  }
  ASSERT_TRUE(forward->SetWindow(model_->Tokens(20)).ok());
  EXPECT_EQ(forward->Measure(PrecisionPlan::Uniform(4, 3)).status().code(), absl::StatusCode::kInvalidArgument);
  CalibrationForward::Options options;
  options.max_positions = 129;
  const auto too_long = CalibrationForward::Create(model_->store(), options);
  EXPECT_THAT(std::string(too_long.status().message()),
              HasSubstr("129 positions; the model's context allows 1 to 128"));
}

TEST_F(CalibrationForwardTest, StopsBetweenBlocks) {
  int polls = 0;
  CalibrationForward::Options options;
  options.cancelled = [&polls] { return ++polls > 4; };
  const auto forward = Make(std::move(options));
  ASSERT_TRUE(forward->SetWindow(model_->Tokens(20)).ok());
  EXPECT_EQ(polls, 3);
  EXPECT_TRUE(absl::IsCancelled(forward->Measure(model_->Uniform(4)).status()));
  EXPECT_EQ(polls, 5);
}

}  // namespace
}  // namespace flexquant::executor
