// What a batch asks of an executor when sequences leave and come again, and what results do.

#include "controller/batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "controller/policy/policy_factory.h"
#include "controller/step_proto.h"
#include "controller/steps_in_flight.h"
#include "tests/controller/calibrated_model.h"
#include "tests/controller/null_sink.h"
#include "tests/controller/test_model.h"

namespace flexquant::controller {
namespace {

using ::testing::HasSubstr;

class BatchTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kBlockTokens = 4;

  std::unique_ptr<Sequence> MakeSequence(uint32_t prompt_tokens) {
    auto spec = std::make_unique<GenerationSpec>();
    spec->request_id = std::to_string(++last_id_);
    spec->prompt.assign(prompt_tokens, 'x');
    spec->max_tokens = 8;
    auto resolved = MakePolicy({}, model_.policies, 1);
    EXPECT_TRUE(resolved.ok());
    spec->policy = std::move(resolved->policy);
    spec->prefill_plan = std::move(resolved->prefill_plan);
    auto active = active_->Add(last_id_, "", spec->request_id);
    return std::make_unique<Sequence>(std::move(spec), std::make_shared<NullSink>(),
                                      Sequence::Shared{*model_.tokenizer, *model_.layer_groups, 1}, std::move(active));
  }

  // Admits what waits and composes a step of one sequence.
  SequenceStep Step() {
    batch_.Admit(queue_, now_);
    const std::vector<SequenceStep> steps = batch_.Compose(now_);
    EXPECT_EQ(steps.size(), 1U);
    return steps.empty() ? SequenceStep() : steps.front();
  }

  void Accept(uint64_t executor_id) {
    Sequence* sequence = batch_.Find(executor_id);
    sequence->Accept({'a', {0, 1, 1}, 0, {}}, std::nullopt, now_);
    batch_.Accepted(*sequence);
  }

  const ModelPackage model_ = TestModel();
  const absl::Time now_ = absl::UnixEpoch();
  const std::shared_ptr<ActiveRequests> active_ = std::make_shared<ActiveRequests>();
  RequestQueue queue_{{}};
  Batch batch_{16, kBlockTokens, {4, 64, 64, 0}};
  uint64_t last_id_ = 0;
};

TEST_F(BatchTest, ALongerPromptReusesAllBlocksOfAShorterOne) {
  auto sequence = MakeSequence(2 * kBlockTokens);
  ASSERT_TRUE(queue_.Push(sequence).ok());
  Accept(Step().sequence_id);
  batch_.TakeAll();
  sequence = MakeSequence(2 * kBlockTokens + 1);
  ASSERT_TRUE(queue_.Push(sequence).ok());
  EXPECT_EQ(Step().start->cached_token_ids.size(), 2 * kBlockTokens);
}

TEST_F(BatchTest, PromptsBesideDecodesComeInPiecesThatFitTheTime) {
  const double products = model_.layer_groups->Products(PrecisionPlan::Uniform(8, model_.layer_groups->count()));
  for (const bool coarse : {false, true}) {
    BatchLimits limits = {4, 1000, 256, 0};
    limits.max_step_time = absl::Milliseconds(50);
    limits.settings.coarse_prompts = coarse;
    Batch batch(200, kBlockTokens, limits, model_.layer_groups.get());
    const auto tokens_of = [&](uint32_t prompt) {
      std::vector<SequenceStep> steps;
      auto sequence = MakeSequence(prompt);
      EXPECT_TRUE(queue_.Push(sequence).ok());
      batch.Admit(queue_, now_);
      steps = batch.Compose(now_);
      EXPECT_TRUE(batch.Work(steps).has_value());
      return steps.back().token_ids.size();
    };
    // A millisecond for a token of two rows of activations, nothing a byte.
    for (int i = 1; i <= 100; ++i) {
      batch.Took({1, products * i}, absl::Milliseconds(i));
    }
    // Nobody waits for it: all at once.
    EXPECT_EQ(tokens_of(100), 100U);
    Sequence& first = *batch.running()[0];
    first.Accept({'a', {0, 1, 1}, 0, {}}, std::nullopt, now_);
    const size_t piece = tokens_of(200);
    EXPECT_GE(piece, coarse ? 80U : 40U);
    EXPECT_LT(piece, coarse ? 200U : 80U);
  }
}

// The plans of a step in which one sequence decodes on a budget of KL and another's prompt is computed.
std::vector<PrecisionPlan> PlansBesideAPrompt(double bytes_per_product) {
  const ModelPackage model = CalibratedTestModel(1);
  const auto active = std::make_shared<ActiveRequests>();
  RequestQueue queue{{}};
  Batch batch(200, 4, {4, 1000, 256, 0}, model.layer_groups.get());
  for (int i = 0; i < 100; ++i) {
    const StepWork work = {1e6, i % 2 == 0 ? 1e5 : 1e7};
    batch.Took(work, absl::Nanoseconds(work.bytes + bytes_per_product * work.products));
  }
  uint64_t last_id = 0;
  const auto step = [&](bool push) {
    if (push) {
      const uint64_t id = ++last_id;
      v1::PrecisionPolicy budget;
      budget.set_max_mean_kl(0.5);
      auto resolved = MakePolicy(budget, model.policies, 1);
      auto spec = std::make_unique<GenerationSpec>();
      spec->prompt.assign(20, 'x');
      spec->max_tokens = 8;
      spec->policy = std::move(resolved->policy);
      spec->prefill_plan = std::move(resolved->prefill_plan);
      auto sequence = std::make_unique<Sequence>(std::move(spec), std::make_shared<NullSink>(),
                                                 Sequence::Shared{*model.tokenizer, *model.layer_groups, 1},
                                                 active->Add(id, "", std::to_string(id)));
      EXPECT_TRUE(queue.Push(sequence).ok());
    }
    batch.Admit(queue, absl::UnixEpoch());
    return batch.Compose(absl::UnixEpoch());
  };
  step(true);
  for (int token = 0; token < 3; ++token) {
    batch.running()[0]->Accept({'a', {0, 1, 9}, 0, {}}, std::nullopt, absl::UnixEpoch());
    if (token < 2) {
      step(false);
    }
  }
  std::vector<PrecisionPlan> plans;
  for (const SequenceStep& part : step(true)) {
    plans.push_back(part.plan);
  }
  return plans;
}

TEST(SharedStepTest, APromptRaisesDecodesOnlyWhereThatIsFaster) {
  const std::vector<PrecisionPlan> by_bytes = PlansBesideAPrompt(0);
  ASSERT_EQ(by_bytes.size(), 2U);
  EXPECT_EQ(by_bytes[0], by_bytes[1]);
  EXPECT_EQ(by_bytes[0].bits[0], 8);
  const std::vector<PrecisionPlan> by_products = PlansBesideAPrompt(1000);
  ASSERT_EQ(by_products.size(), 2U);
  EXPECT_LT(by_products[0].bits[0], 6);
  EXPECT_EQ(by_products[1].bits[0], 8);
}

TEST(StepsInFlightTest, EveryResultIsHeldAgainstItsStep) {
  SequenceStep part;
  part.sequence_id = 7;
  const auto code_of = [&](const StepResult& result, std::string* message) {
    StepsInFlight steps;
    steps.Add(1, {part}, absl::UnixEpoch());
    const auto taken = steps.Take(result);
    *message = std::string(taken.status().message());
    return taken.status().code();
  };
  StepResult result;
  result.step_id = 1;
  result.sequences.emplace_back().sequence_id = 7;
  std::string message;
  EXPECT_EQ(code_of(result, &message), absl::StatusCode::kOk);
  result.sequences[0].sequence_id = 8;
  EXPECT_EQ(code_of(result, &message), absl::StatusCode::kUnavailable);
  EXPECT_THAT(message, HasSubstr("other sequences"));
  result.sequences.emplace_back();
  EXPECT_EQ(code_of(result, &message), absl::StatusCode::kUnavailable);
  EXPECT_THAT(message, HasSubstr("another number"));
  result.step_id = 2;
  EXPECT_EQ(code_of(result, &message), absl::StatusCode::kUnavailable);
  EXPECT_THAT(message, HasSubstr("not the next one owed (step 2)"));
  EXPECT_FALSE(StepsInFlight().Take(result).ok());
}

TEST(StepProtoTest, AnAuditThatIsNoKlCountsAsNone) {
  executor::v1::StepResult proto;
  for (const double kl : {0.5, -1.0, 1e300, std::numeric_limits<double>::quiet_NaN()}) {
    proto.add_sequences()->set_audit_kl(kl);
  }
  const StepResult result = FromProto(proto);
  EXPECT_EQ(result.sequences[0].audit_kl, 0.5);
  for (size_t i = 1; i < result.sequences.size(); ++i) {
    EXPECT_FALSE(result.sequences[i].audit_kl.has_value()) << i;
  }
}

}  // namespace
}  // namespace flexquant::controller
