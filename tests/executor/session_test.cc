// The protocol's state machine: every legal and illegal sequence that executor.proto names.

#include "executor/session.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/executor/fake_runner.h"

namespace flexquant::executor {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using Code = absl::StatusCode;

class SessionTest : public ::testing::Test {
 protected:
  absl::Status Send(const v1::ExecuteRequest& request) { return session_.Handle(request, absl::Now(), &response_); }

  absl::Status Open(const std::string& epoch = "") {
    v1::ExecuteRequest request;
    request.mutable_open()->set_expected_instance_id(epoch);
    return Send(request);
  }

  absl::Status SendPlan(uint32_t id, const std::string& bits) {
    v1::ExecuteRequest request;
    AddPlan(request.mutable_plans(), id, bits);
    return Send(request);
  }

  static void AddPlan(v1::PlanTable* table, uint32_t id, const std::string& bits) {
    auto* plan = table->add_plans();
    plan->set_plan_id(id);
    plan->set_bits(bits);
  }

  // An open stream with plan 0 of 8 bits and plan 1 of 3 bits.
  void OpenWithPlans() {
    ASSERT_TRUE(Open().ok());
    ASSERT_TRUE(SendPlan(0, std::string(5, 8)).ok());
    ASSERT_TRUE(SendPlan(1, std::string(5, 3)).ok());
  }

  static v1::SequenceStart Start(uint32_t prompt_tokens) {
    v1::SequenceStart start;
    start.mutable_sampling()->set_top_p(1);
    start.mutable_sampling()->set_repetition_penalty(1);
    start.set_prompt_tokens(prompt_tokens);
    return start;
  }

  struct Part {
    uint64_t id = 1;
    uint32_t position = 0;
    std::vector<uint32_t> tokens = {};
    std::vector<uint32_t> blocks = {};
    bool sample = false;
    uint32_t plan = 0;
    std::optional<v1::SequenceStart> start = std::nullopt;
  };

  static v1::ExecuteRequest StepOf(uint64_t step_id, const std::vector<Part>& parts) {
    v1::ExecuteRequest request;
    request.mutable_step()->set_step_id(step_id);
    for (const Part& part : parts) {
      auto* sequence = request.mutable_step()->add_sequences();
      sequence->set_sequence_id(part.id);
      sequence->set_plan_id(part.plan);
      sequence->set_position(part.position);
      sequence->mutable_token_ids()->Add(part.tokens.begin(), part.tokens.end());
      sequence->mutable_new_kv_blocks()->Add(part.blocks.begin(), part.blocks.end());
      sequence->set_sample(part.sample);
      if (part.start.has_value()) {
        *sequence->mutable_start() = *part.start;
      }
    }
    return request;
  }

  absl::Status Step(const std::vector<Part>& parts) { return Send(StepOf(++step_id_, parts)); }

  const v1::SequenceResult& Result(int index = 0) const { return response_.result().sequences(index); }
  Code ResultCode(int index = 0) const { return static_cast<Code>(Result(index).code()); }

  static Part FirstStep(uint64_t id = 1) { return {id, 0, {3, 4, 5}, {0}, true, 0, Start(3)}; }

  FakeRunner runner_;
  Engine engine_{runner_};
  Session session_{engine_};
  v1::ExecuteResponse response_;
  uint64_t step_id_ = 0;
};

TEST_F(SessionTest, AnswersOpenWithItsEpoch) {
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(response_.opened().instance_id(), engine_.instance_id());
  EXPECT_EQ(engine_.instance_id().size(), 32U);
  EXPECT_NE(engine_.instance_id(), Engine(runner_).instance_id());
}

TEST_F(SessionTest, AcceptsItsOwnEpochOnly) {
  EXPECT_EQ(Open("another").code(), Code::kAborted);
  Session second(engine_);
  v1::ExecuteRequest request;
  request.mutable_open()->set_expected_instance_id(engine_.instance_id());
  EXPECT_TRUE(second.Handle(request, absl::Now(), &response_).ok());
}

TEST_F(SessionTest, FirstMessageMustBeOpen) {
  EXPECT_EQ(SendPlan(0, std::string(5, 8)).code(), Code::kFailedPrecondition);
  EXPECT_EQ(Step({FirstStep()}).code(), Code::kFailedPrecondition);
  v1::ExecuteRequest release;
  release.mutable_release()->add_sequence_ids(1);
  EXPECT_EQ(Send(release).code(), Code::kFailedPrecondition);
  EXPECT_EQ(engine_.steps_done(), 0U);
}

TEST_F(SessionTest, SecondOpenIsRefused) {
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(Open().code(), Code::kFailedPrecondition);
}

TEST_F(SessionTest, MessageWithNothingSetIsRefused) {
  EXPECT_EQ(Send(v1::ExecuteRequest()).code(), Code::kInvalidArgument);
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(Send(v1::ExecuteRequest()).code(), Code::kInvalidArgument);
}

TEST_F(SessionTest, StepIdsCountFromOneWithoutGapOrRepeat) {
  OpenWithPlans();
  EXPECT_EQ(Send(StepOf(0, {FirstStep()})).code(), Code::kFailedPrecondition);
  EXPECT_EQ(Send(StepOf(2, {FirstStep()})).code(), Code::kFailedPrecondition);
  ASSERT_TRUE(Send(StepOf(1, {FirstStep()})).ok());
  EXPECT_EQ(response_.result().step_id(), 1U);
  const absl::Status repeated = Send(StepOf(1, {{1, 3, {}, {}, true}}));
  EXPECT_EQ(repeated.code(), Code::kFailedPrecondition);
  EXPECT_THAT(std::string(repeated.message()), HasSubstr("step_id is 1; expected 2"));
  EXPECT_EQ(Send(StepOf(3, {{1, 3, {}, {0}, true}})).code(), Code::kFailedPrecondition);
  EXPECT_EQ(engine_.steps_done(), 1U);
}

TEST_F(SessionTest, PlansAreNeverGuessed) {
  ASSERT_TRUE(Open().ok());
  const auto expect = [&](const absl::Status& status, const std::string& text) {
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  };
  expect(Step({FirstStep()}), "plan 0 was not sent");
  expect(SendPlan(4096, std::string(5, 8)), "plan_id is 4096; allowed: 0 to 4095");
  expect(SendPlan(7, std::string(4, 8)), "plan 7");
  expect(SendPlan(7, std::string(6, 8)), "plan 7");
  expect(SendPlan(7, ""), "plan 7");
  expect(SendPlan(7, std::string(5, 7)), "plan 7");
  expect(SendPlan(7, std::string(5, 16)), "plan 7");  // no reference
  EXPECT_TRUE(SendPlan(4095, std::string(5, 8)).ok());
  runner_.mutable_info().has_reference = true;
  EXPECT_TRUE(SendPlan(7, std::string(5, 16)).ok());
  expect(SendPlan(7, std::string(4, 16) + std::string(1, 8)), "plan 7");
}

TEST_F(SessionTest, OpenMayBringPlansAndBadOnesEndTheStream) {
  v1::ExecuteRequest open;
  AddPlan(open.mutable_open()->mutable_plans(), 3, std::string(5, 9));
  EXPECT_EQ(Send(open).code(), Code::kInvalidArgument);
  Session other(engine_);
  open.mutable_open()->mutable_plans()->mutable_plans(0)->set_bits(std::string(5, 4));
  ASSERT_TRUE(other.Handle(open, absl::Now(), &response_).ok());
  Part part = FirstStep();
  part.plan = 3;
  ASSERT_TRUE(other.Handle(StepOf(1, {part}), absl::Now(), &response_).ok());
  EXPECT_EQ(runner_.inputs[0].first_bits, 4);
}

TEST_F(SessionTest, PlanSentAgainReplacesItForLaterSteps) {
  OpenWithPlans();
  ASSERT_TRUE(Step({FirstStep()}).ok());
  EXPECT_EQ(runner_.inputs[0].first_bits, 8);
  ASSERT_TRUE(SendPlan(0, std::string(5, 6)).ok());
  EXPECT_EQ(response_.message_case(), v1::ExecuteResponse::MESSAGE_NOT_SET);
  ASSERT_TRUE(Step({{1, 3, {}, {}, true}}).ok());
  EXPECT_EQ(runner_.inputs[0].first_bits, 6);
}

TEST_F(SessionTest, StepsHaveLimits) {
  OpenWithPlans();
  EXPECT_EQ(Step({}).code(), Code::kInvalidArgument);
  step_id_ = 0;
  EXPECT_EQ(Step({FirstStep(1), FirstStep(2), FirstStep(3), FirstStep(4)}).code(), Code::kInvalidArgument);
  step_id_ = 0;
  EXPECT_EQ(Step({FirstStep(1), FirstStep(1)}).code(), Code::kInvalidArgument);
  step_id_ = 0;
  Part large = FirstStep();
  large.tokens.assign(13, 1);
  large.blocks = {0, 1, 2, 3};
  const absl::Status status = Step({large});
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("13 tokens; allowed: 1 to 12"));
  EXPECT_EQ(engine_.steps_done(), 0U);
}

TEST_F(SessionTest, ListsHaveLimits) {
  EXPECT_EQ(Open(std::string(129, 'x')).code(), Code::kInvalidArgument);
  OpenWithPlans();
  v1::ExecuteRequest plans;
  for (uint32_t i = 0; i < 4096; ++i) {
    AddPlan(plans.mutable_plans(), i, std::string(5, 8));
  }
  EXPECT_TRUE(Send(plans).ok());
  AddPlan(plans.mutable_plans(), 0, std::string(5, 8));
  EXPECT_EQ(Send(plans).code(), Code::kInvalidArgument);
  v1::ExecuteRequest release;
  release.mutable_release()->mutable_sequence_ids()->Resize(65'536, 7);
  EXPECT_TRUE(Send(release).ok());
  release.mutable_release()->add_sequence_ids(7);
  EXPECT_EQ(Send(release).code(), Code::kInvalidArgument);
}

TEST_F(SessionTest, PrefillsInChunksThenDecodesWhatItSampled) {
  OpenWithPlans();
  ASSERT_TRUE(Step({{1, 0, {1, 2, 3}, {5}, false, 0, Start(5)}}).ok());
  EXPECT_EQ(ResultCode(), Code::kOk);
  EXPECT_FALSE(Result().has_token());
  ASSERT_TRUE(Step({{1, 3, {4, 6}, {2}, true}}).ok());
  EXPECT_EQ(Result().token().id(), 7U);
  EXPECT_THAT(runner_.inputs[0].blocks, ElementsAre(5, 2));
  EXPECT_EQ(runner_.inputs[0].draw, 0U);
  ASSERT_TRUE(Step({{1, 5, {}, {}, true, 1}}).ok());
  EXPECT_THAT(runner_.inputs[0].tokens, ElementsAre(7));
  EXPECT_EQ(runner_.inputs[0].prompt_tokens, 0);
  EXPECT_EQ(runner_.inputs[0].start, 5);
  EXPECT_EQ(runner_.inputs[0].first_bits, 3);
  EXPECT_EQ(runner_.inputs[0].draw, 1U);
  EXPECT_EQ(Result().token().id(), 8U);
  EXPECT_FLOAT_EQ(Result().token().entropy_nats(), 0.5F);
  EXPECT_FLOAT_EQ(Result().token().top1_probability(), 0.75F);
  EXPECT_FLOAT_EQ(Result().token().margin(), 2);
  EXPECT_FLOAT_EQ(Result().token().logprob(), -0.25F);
  EXPECT_EQ(response_.result().weight_bytes_read(), 1000U);
  EXPECT_GT(response_.result().compute_ns(), 0U);
  EXPECT_EQ(engine_.steps_done(), 3U);
}

TEST_F(SessionTest, ResumedSequenceGoesOnWithItsDraws) {
  OpenWithPlans();
  // Prompt of 2, then 3 answer tokens made elsewhere: the next one is answer token 3.
  Part part{1, 0, {1, 2, 5, 5, 6}, {0, 1}, true, 0, Start(2)};
  part.start->mutable_sampling()->set_seed(99);
  part.start->mutable_sampling()->set_temperature(0.5);
  part.start->mutable_sampling()->set_frequency_penalty(1);
  ASSERT_TRUE(Step({part}).ok());
  EXPECT_EQ(runner_.inputs[0].draw, 3U);
  EXPECT_EQ(runner_.inputs[0].prompt_tokens, 2);
  EXPECT_EQ(runner_.inputs[0].sampling.seed, 99U);
  EXPECT_FLOAT_EQ(runner_.inputs[0].sampling.temperature, 0.5F);
  EXPECT_THAT(runner_.inputs[0].counts, ElementsAre(Pair(1, 0), Pair(2, 0), Pair(5, 2), Pair(6, 1)));
  ASSERT_TRUE(Step({{1, 5, {}, {}, true}}).ok());
  EXPECT_EQ(runner_.inputs[0].draw, 4U);
  EXPECT_THAT(runner_.inputs[0].counts, ElementsAre(Pair(1, 0), Pair(2, 0), Pair(5, 2), Pair(6, 1), Pair(7, 1)));
}

TEST_F(SessionTest, TroubleWithOneSequenceLeavesTheOthersAlone) {
  OpenWithPlans();
  ASSERT_TRUE(Step({FirstStep(1)}).ok());
  ASSERT_TRUE(Step({{7, 0, {1}, {}, true}, {1, 3, {}, {}, true}, {8, 0, {1}, {99}, true, 0, Start(1)}}).ok());
  EXPECT_EQ(Result(0).sequence_id(), 7U);
  EXPECT_EQ(ResultCode(0), Code::kNotFound);
  EXPECT_EQ(Result(1).sequence_id(), 1U);
  EXPECT_EQ(ResultCode(1), Code::kOk);
  EXPECT_EQ(Result(1).token().id(), 7U);
  EXPECT_EQ(ResultCode(2), Code::kInvalidArgument);
  EXPECT_THAT(Result(2).message(), HasSubstr("KV block is 99; allowed: 0 to 7"));
  EXPECT_EQ(runner_.inputs.size(), 1U);
  EXPECT_EQ(session_.num_sequences(), 1U);
}

TEST_F(SessionTest, StepWhoseSequencesAllFailRunsNothing) {
  OpenWithPlans();
  ASSERT_TRUE(Step({{7, 0, {1}, {}, true}}).ok());
  EXPECT_EQ(ResultCode(), Code::kNotFound);
  EXPECT_EQ(engine_.steps_done(), 0U);
}

TEST_F(SessionTest, SequenceErrorsLeaveTheSequenceUnchanged) {
  OpenWithPlans();
  ASSERT_TRUE(Step({FirstStep()}).ok());
  const auto expect = [&](const Part& part, Code code, const std::string& text) {
    ASSERT_TRUE(Step({part}).ok());
    EXPECT_EQ(ResultCode(), code) << text;
    EXPECT_THAT(Result().message(), HasSubstr(text));
  };
  expect({1, 2, {}, {}, true}, Code::kFailedPrecondition, "position is 2; expected 3");
  expect({1, 4, {}, {}, true}, Code::kFailedPrecondition, "position is 4; expected 3");
  expect({1, 3, {10}, {}, true}, Code::kInvalidArgument, "token id is 10; allowed: 0 to 9");
  expect({1, 3, {1}, {8}, true}, Code::kInvalidArgument, "KV block is 8; allowed: 0 to 7");
  expect({1, 3, {1, 2}, {}, true}, Code::kInvalidArgument, "1 KV blocks; 5 tokens need at least 2");
  expect({1, 3, {1}, {0, 1, 2, 3, 4, 5, 6, 7}, true}, Code::kInvalidArgument, "9 KV blocks");
  expect({1, 0, {1}, {}, true, 0, Start(1)}, Code::kFailedPrecondition, "exists");
  ASSERT_TRUE(Step({{1, 3, {}, {}, true}}).ok());
  EXPECT_EQ(ResultCode(), Code::kOk);
  EXPECT_THAT(runner_.inputs[0].tokens, ElementsAre(6));
  EXPECT_THAT(runner_.inputs[0].blocks, ElementsAre(0));
}

TEST_F(SessionTest, ContextIsTheLimit) {
  OpenWithPlans();
  const std::vector<uint32_t> all_blocks = {0, 1, 2, 3, 4, 5, 6, 7};
  ASSERT_TRUE(Step({{1, 0, std::vector<uint32_t>(12, 1), all_blocks, false, 0, Start(12)}}).ok());
  ASSERT_TRUE(Step({{1, 12, std::vector<uint32_t>(12, 1)}}).ok());
  ASSERT_TRUE(Step({{1, 24, std::vector<uint32_t>(8, 1), {}, true}}).ok());
  EXPECT_EQ(ResultCode(), Code::kOk);
  ASSERT_TRUE(Step({{1, 32, {}, {}, true}}).ok());
  EXPECT_EQ(ResultCode(), Code::kInvalidArgument);
  EXPECT_THAT(Result().message(), HasSubstr("33 tokens exceed the model's context of 32"));
}

TEST_F(SessionTest, DecodeNeedsASampledToken) {
  OpenWithPlans();
  ASSERT_TRUE(Step({{1, 0, {}, {0}, true, 0, Start(0)}}).ok());
  EXPECT_EQ(ResultCode(), Code::kFailedPrecondition);
  EXPECT_EQ(session_.num_sequences(), 0U);
  ASSERT_TRUE(Step({{1, 0, {1, 2}, {0}, false, 0, Start(2)}}).ok());
  ASSERT_TRUE(Step({{1, 2, {}, {}, true}}).ok());
  EXPECT_EQ(ResultCode(), Code::kFailedPrecondition);
  EXPECT_THAT(Result().message(), HasSubstr("no sampled token"));
}

TEST_F(SessionTest, SamplingInsideThePromptIsRefused) {
  OpenWithPlans();
  ASSERT_TRUE(Step({{1, 0, {1, 2}, {0}, true, 0, Start(3)}}).ok());
  EXPECT_EQ(ResultCode(), Code::kInvalidArgument);
  EXPECT_THAT(Result().message(), HasSubstr("2 of 3 prompt tokens"));
}

TEST_F(SessionTest, StartIsChecked) {
  OpenWithPlans();
  const auto code_of = [&](auto change) {
    Part part = FirstStep();
    change(*part.start, *part.start->mutable_sampling());
    EXPECT_TRUE(Step({part}).ok());
    return ResultCode();
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto bad = Code::kInvalidArgument;
  EXPECT_EQ(code_of([&](auto&, auto& s) { s.set_temperature(nan); }), bad);
  EXPECT_EQ(code_of([&](auto&, auto& s) { s.set_temperature(-0.1); }), bad);
  EXPECT_EQ(code_of([&](auto&, auto& s) { s.set_temperature(100.1); }), bad);
  EXPECT_EQ(code_of([&](auto&, auto& s) { s.set_top_p(0); }), bad);
  EXPECT_EQ(code_of([&](auto&, auto& s) { s.set_top_p(1e-300); }), bad);
  EXPECT_EQ(code_of([&](auto&, auto& s) { s.set_top_p(1.01); }), bad);
  EXPECT_EQ(code_of([&](auto&, auto& s) { s.set_min_p(nan); }), bad);
  EXPECT_EQ(code_of([&](auto&, auto& s) { s.set_min_p(1.5); }), bad);
  EXPECT_EQ(code_of([&](auto&, auto& s) { s.set_repetition_penalty(0); }), bad);
  EXPECT_EQ(code_of([&](auto&, auto& s) { s.set_repetition_penalty(11); }), bad);
  EXPECT_EQ(code_of([&](auto&, auto& s) { s.set_presence_penalty(-11); }), bad);
  EXPECT_EQ(code_of([&](auto&, auto& s) { s.set_frequency_penalty(nan); }), bad);
  EXPECT_EQ(code_of([&](auto& start, auto&) { start.set_top_logprobs(21); }), bad);
  EXPECT_EQ(code_of([&](auto& start, auto&) { start.set_prompt_tokens(UINT32_MAX); }), bad);
  EXPECT_EQ(session_.num_sequences(), 0U);
  EXPECT_EQ(code_of([&](auto& start, auto&) { start.set_top_logprobs(3); }), Code::kOk);
  EXPECT_THAT(Result().token().top_ids(), ElementsAre(0, 1, 2));
  EXPECT_THAT(Result().token().top_logprobs(), ElementsAre(0, -1, -2));
}

TEST_F(SessionTest, ReturnsFullLogitsWhenAsked) {
  OpenWithPlans();
  Part part = FirstStep();
  part.start->set_full_logits(true);
  ASSERT_TRUE(Step({part}).ok());
  ASSERT_EQ(Result().full_logits().size(), 40U);
  float value = 0;
  std::memcpy(&value, Result().full_logits().data() + 36, sizeof(value));
  EXPECT_EQ(value, 1.5F);
  ASSERT_TRUE(Step({{1, 3, {}, {}, false}}).ok());
  EXPECT_THAT(Result().full_logits(), IsEmpty());
}

TEST_F(SessionTest, ReleaseForgetsAndAllowsTheIdAgain) {
  OpenWithPlans();
  ASSERT_TRUE(Step({FirstStep(1), FirstStep(2)}).ok());
  v1::ExecuteRequest release;
  release.mutable_release()->add_sequence_ids(1);
  release.mutable_release()->add_sequence_ids(1234);
  ASSERT_TRUE(Send(release).ok());
  EXPECT_EQ(session_.num_sequences(), 1U);
  ASSERT_TRUE(Step({{1, 3, {}, {}, true}, {2, 3, {}, {}, true}}).ok());
  EXPECT_EQ(ResultCode(0), Code::kNotFound);
  EXPECT_EQ(ResultCode(1), Code::kOk);
  ASSERT_TRUE(Step({FirstStep(1)}).ok());
  EXPECT_EQ(ResultCode(), Code::kOk);
}

TEST_F(SessionTest, SequencesMayShareKvBlocks) {
  OpenWithPlans();
  ASSERT_TRUE(Step({FirstStep(1), FirstStep(2)}).ok());
  EXPECT_EQ(ResultCode(0), Code::kOk);
  EXPECT_EQ(ResultCode(1), Code::kOk);
}

TEST_F(SessionTest, APrefixThatIsInTheCacheAlreadyIsNotComputed) {
  OpenWithPlans();
  // Eight tokens fill the blocks 6 and 7; the prompt has two more.
  Part part{1, 8, {9, 9}, {6, 7, 2}, true, 0, Start(10)};
  part.start->mutable_sampling()->set_frequency_penalty(1);
  for (const uint32_t token : {1, 2, 3, 4, 1, 2, 3, 4}) {
    part.start->add_cached_token_ids(token);
  }
  ASSERT_TRUE(Step({part}).ok());
  EXPECT_EQ(ResultCode(), Code::kOk) << Result().message();
  EXPECT_THAT(runner_.inputs[0].tokens, ElementsAre(9, 9));
  EXPECT_EQ(runner_.inputs[0].start, 8);
  EXPECT_THAT(runner_.inputs[0].blocks, ElementsAre(6, 7, 2));
  EXPECT_EQ(runner_.inputs[0].draw, 0U);
  // Penalties see it as a part of the prompt.
  EXPECT_THAT(runner_.inputs[0].counts, ElementsAre(Pair(1, 0), Pair(2, 0), Pair(3, 0), Pair(4, 0), Pair(9, 0)));
}

TEST_F(SessionTest, CachedPrefixesAreChecked) {
  OpenWithPlans();
  const auto code = [&](const std::vector<uint32_t>& cached, uint32_t position, const std::vector<uint32_t>& blocks,
                        uint32_t prompt_tokens) {
    Part part{1, position, {9}, blocks, false, 0, Start(prompt_tokens)};
    part.start->mutable_cached_token_ids()->Add(cached.begin(), cached.end());
    EXPECT_TRUE(Step({part}).ok());
    return ResultCode();
  };
  EXPECT_EQ(code({1, 2, 3}, 3, {0, 1}, 10), Code::kInvalidArgument);        // no whole block
  EXPECT_EQ(code({1, 2, 3, 4}, 4, {0, 1}, 3), Code::kInvalidArgument);      // more than the prompt
  EXPECT_EQ(code({1, 2, 3, 4}, 4, {}, 10), Code::kInvalidArgument);         // without its block
  EXPECT_EQ(code({1, 2, 3, 4}, 0, {0, 1}, 10), Code::kFailedPrecondition);  // position does not follow
  EXPECT_EQ(code({1, 2, 3, 999'999}, 4, {0, 1}, 10), Code::kInvalidArgument);
  EXPECT_EQ(session_.num_sequences(), 0U);
  EXPECT_EQ(code({1, 2, 3, 4}, 4, {0, 1}, 10), Code::kOk);
}

TEST_F(SessionTest, AResumedSequenceMayFindItsWholePromptInTheCache) {
  OpenWithPlans();
  // The prompt fills a block; the token that comes with it is the answer's first.
  Part part{1, 4, {9}, {6, 2}, true, 0, Start(4)};
  part.start->mutable_sampling()->set_frequency_penalty(1);
  for (const uint32_t token : {1, 2, 3, 4}) {
    part.start->add_cached_token_ids(token);
  }
  ASSERT_TRUE(Step({part}).ok());
  EXPECT_EQ(ResultCode(), Code::kOk) << Result().message();
  EXPECT_EQ(runner_.inputs[0].start, 4);
  EXPECT_EQ(runner_.inputs[0].draw, 1U);
  EXPECT_THAT(runner_.inputs[0].counts, Contains(Pair(9, 1)));
}

TEST_F(SessionTest, NumberOfSequencesIsBounded) {
  OpenWithPlans();
  for (uint64_t id = 0; id < 8; ++id) {
    ASSERT_TRUE(Step({FirstStep(id)}).ok());
    EXPECT_EQ(ResultCode(), Code::kOk);
  }
  ASSERT_TRUE(Step({FirstStep(8)}).ok());
  EXPECT_EQ(ResultCode(), Code::kResourceExhausted);
}

TEST_F(SessionTest, DrainingExecutorTakesNoNewSequences) {
  OpenWithPlans();
  ASSERT_TRUE(Step({FirstStep(1)}).ok());
  engine_.Drain();
  ASSERT_TRUE(Step({FirstStep(2), {1, 3, {}, {}, true}}).ok());
  EXPECT_EQ(ResultCode(0), Code::kUnavailable);
  EXPECT_EQ(ResultCode(1), Code::kOk);
}

TEST_F(SessionTest, SequenceErrorsOfTheRunnerAreReported) {
  OpenWithPlans();
  runner_.sequence_error = absl::InternalError("not finite");
  ASSERT_TRUE(Step({FirstStep()}).ok());
  EXPECT_EQ(ResultCode(), Code::kInternal);
  EXPECT_EQ(Result().message(), "not finite");
  EXPECT_FALSE(Result().has_token());
}

TEST_F(SessionTest, ErrorOfTheRunnerEndsTheStreamButNotTheEngine) {
  OpenWithPlans();
  runner_.next_error = absl::InternalError("broken");
  EXPECT_EQ(Step({FirstStep()}).code(), Code::kInternal);
  runner_.next_error = absl::OkStatus();
  Session second(engine_);
  v1::ExecuteRequest open;
  AddPlan(open.mutable_open()->mutable_plans(), 0, std::string(5, 8));
  ASSERT_TRUE(second.Handle(open, absl::Now(), &response_).ok());
  EXPECT_TRUE(second.Handle(StepOf(1, {FirstStep()}), absl::Now(), &response_).ok());
}

}  // namespace
}  // namespace flexquant::executor
