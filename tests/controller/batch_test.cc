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
