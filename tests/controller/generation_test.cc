// Answers end to end over a fake executor: shape of the stream, stops, precision, lookahead, batching.

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "tests/controller/service_fixture.h"

namespace flexquant::controller {
namespace {

using testing::RecordedSequence;
using testing::RecordedStep;
using testing::ScriptedToken;

class GenerationTest : public ServiceTest, public ::testing::WithParamInterface<int> {};

INSTANTIATE_TEST_SUITE_P(Lookahead, GenerationTest, ::testing::Values(0, 1));

TEST_P(GenerationTest, StreamHasOneStartDeltasAndOneEnd) {
  AddExecutor(Alphabet(5));
  StartController(GetParam());
  v1::GenerateRequest request = Request("hi");
  request.set_request_id("my-id");
  const StreamOutcome outcome = Stream(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_EQ(outcome.num_started, 1);
  EXPECT_EQ(outcome.num_finished, 1);
  ASSERT_GE(outcome.events.size(), 3U);
  EXPECT_TRUE(outcome.events.front().has_started());
  EXPECT_TRUE(outcome.events.back().has_finished());
  EXPECT_EQ(outcome.text, "abcde");
  EXPECT_EQ(outcome.token_ids, (std::vector<uint32_t>{'a', 'b', 'c', 'd', 'e', kEos}));
  EXPECT_TRUE(outcome.tokens.empty());
  EXPECT_EQ(outcome.started.request_id(), "my-id");
  EXPECT_EQ(outcome.started.model(), "tiny");
  EXPECT_EQ(outcome.started.model_revision(), "revision");
  EXPECT_EQ(outcome.started.prompt_tokens(), 3U);
  EXPECT_TRUE(outcome.started.effective().sampling().has_seed());
  EXPECT_EQ(outcome.finished.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(outcome.finished.stop_cause(), "eos");
  EXPECT_EQ(outcome.finished.usage().prompt_tokens(), 3U);
  EXPECT_EQ(outcome.finished.usage().generated_tokens(), 6U);
  EXPECT_GT(outcome.finished.usage().time_to_first_token_ns(), 0U);
  EXPECT_GT(outcome.finished.usage().time_per_output_token_ns(), 0U);
  EXPECT_LE(outcome.finished.usage().queue_time_ns(), outcome.finished.usage().time_to_first_token_ns());
  EXPECT_TRUE(executors_[0]->WaitUntilIdle());
  ExpectNoViolations();
}

TEST_P(GenerationTest, UnaryAnswerIsTheStreams) {
  AddExecutor(Alphabet(5));
  StartController(GetParam());
  v1::GenerateRequest request = Request("hi");
  request.mutable_output()->set_token_info(true);
  request.mutable_output()->set_top_logprobs(1);
  grpc::ClientContext context;
  v1::GenerateResponse response;
  const grpc::Status status = stub_->Generate(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.text(), "abcde");
  EXPECT_EQ(response.token_ids_size(), 6);
  ASSERT_EQ(response.tokens_size(), 6);
  EXPECT_EQ(response.tokens(0).bits(), 8);
  EXPECT_EQ(response.tokens(0).id(), uint32_t{'a'});
  EXPECT_EQ(response.tokens(0).top_logprobs_size(), 1);
  EXPECT_EQ(response.tokens(0).logprob(), -0.5);
  EXPECT_EQ(response.started().prompt_tokens(), 3U);
  EXPECT_EQ(response.finished().stop_cause(), "eos");
  EXPECT_EQ(executors_[0]->steps()[0][0].start->top_logprobs(), 1U);
}

TEST_P(GenerationTest, MaxTokensEndsExactly) {
  AddExecutor(Alphabet(1000));
  StartController(GetParam());
  for (const uint32_t max_tokens : {1U, 2U, 7U}) {
    const StreamOutcome outcome = Stream(Request("hi", max_tokens));
    ASSERT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_EQ(outcome.text, std::string("abcdefg").substr(0, max_tokens));
    EXPECT_EQ(outcome.token_ids.size(), max_tokens);
    EXPECT_EQ(outcome.finished.finish_reason(), v1::FINISH_REASON_LENGTH);
    EXPECT_EQ(outcome.finished.stop_cause(), "max_tokens");
  }
  // 1 + 2 + 7 tokens: nothing was computed past an end that was known before.
  EXPECT_EQ(executors_[0]->steps().size(), 10U);
  ExpectNoViolations();
}

TEST_P(GenerationTest, ContextEndsAndIsEchoed) {
  AddExecutor(Alphabet(1000));
  StartController(GetParam());
  const StreamOutcome outcome = Stream(Request(std::string(119, 'x'), 1000));
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_EQ(outcome.started.effective().stop().max_tokens(), 8U);
  EXPECT_EQ(outcome.token_ids.size(), 8U);
  EXPECT_EQ(outcome.finished.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(outcome.finished.stop_cause(), "context");
  ExpectNoViolations();
}

TEST_P(GenerationTest, StopTokenIds) {
  AddExecutor(Alphabet(1000));
  StartController(GetParam());
  v1::GenerateRequest request = Request("hi");
  request.mutable_stop()->add_stop_token_ids('d');
  const StreamOutcome outcome = Stream(request);
  EXPECT_EQ(outcome.text, "abc");
  EXPECT_EQ(outcome.token_ids, (std::vector<uint32_t>{'a', 'b', 'c', 'd'}));
  EXPECT_EQ(outcome.finished.stop_cause(), "token:100");
}

TEST_P(GenerationTest, IgnoreEosGoesOn) {
  AddExecutor(Alphabet(3));
  StartController(GetParam());
  v1::GenerateRequest request = Request("hi", 6);
  request.mutable_stop()->set_ignore_eos(true);
  const StreamOutcome outcome = Stream(request);
  EXPECT_EQ(outcome.text, "abc");
  EXPECT_EQ(outcome.token_ids.size(), 6U);
  EXPECT_EQ(outcome.finished.stop_cause(), "max_tokens");
}

TEST_P(GenerationTest, StopStringAcrossTokensIsCutOff) {
  AddExecutor(Saying("one two EN three END four"));
  StartController(GetParam());
  v1::GenerateRequest request = Request("hi");
  request.mutable_stop()->add_stop_strings("END");
  const StreamOutcome outcome = Stream(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_EQ(outcome.text, "one two EN three ");
  EXPECT_EQ(outcome.finished.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(outcome.finished.stop_cause(), "string:END");
  EXPECT_EQ(outcome.finished.usage().generated_tokens(), 20U);
  for (const auto& event : outcome.events) {
    EXPECT_EQ(event.delta().text().find("END"), std::string::npos);
  }
}

TEST_P(GenerationTest, HeldBackTextIsSentAtTheEnd) {
  AddExecutor(Saying("the EN"));
  StartController(GetParam());
  v1::GenerateRequest request = Request("hi");
  request.mutable_stop()->add_stop_strings("END");
  EXPECT_EQ(Stream(request).text, "the EN");
}

TEST_P(GenerationTest, CodePointsAreNeverSplit) {
  const std::string text = "\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80!";
  AddExecutor(Saying(text));
  StartController(GetParam());
  const StreamOutcome outcome = Stream(Request("hi"));
  EXPECT_EQ(outcome.text, text);
  for (const auto& event : outcome.events) {
    EXPECT_EQ(FindInvalidUtf8(event.delta().text()), -1);
  }
  EXPECT_EQ(Stream(Request("hi", 1)).text, "\xEF\xBF\xBD");
}

TEST_P(GenerationTest, LongPromptsArePrefilledInChunksAtTheTop) {
  AddExecutor(Alphabet(3));
  options_.worker.prefill_chunk_tokens = 10;
  StartController(GetParam());
  v1::GenerateRequest request = Request(std::string(24, 'x'));
  request.mutable_precision()->set_fixed_bits(3);
  ASSERT_EQ(Stream(request).text, "abc");
  const std::vector<RecordedStep> steps = executors_[0]->steps();
  ASSERT_GE(steps.size(), 4U);
  for (const auto& [step, tokens] : std::vector<std::pair<size_t, size_t>>{{0, 10}, {1, 10}, {2, 5}}) {
    EXPECT_EQ(steps[step][0].token_ids.size(), tokens);
    EXPECT_EQ(steps[step][0].sample, step == 2);
    EXPECT_EQ(steps[step][0].plan, std::vector<int>(9, 8));
    EXPECT_EQ(steps[step][0].start.has_value(), step == 0);
  }
  EXPECT_EQ(steps[3][0].plan, std::vector<int>(9, 3));
  ExpectNoViolations();
}

TEST_P(GenerationTest, SamplingReachesTheExecutor) {
  AddExecutor(Alphabet(3));
  StartController(GetParam());
  v1::GenerateRequest request = Request("hi");
  request.mutable_sampling()->set_temperature(0.7);
  request.mutable_sampling()->set_top_k(5);
  request.mutable_sampling()->set_seed(42);
  ASSERT_TRUE(Stream(request).status.ok());
  const auto start = executors_[0]->steps()[0][0].start;
  ASSERT_TRUE(start.has_value());
  EXPECT_EQ(start->sampling().temperature(), 0.7);
  EXPECT_EQ(start->sampling().top_k(), 5U);
  EXPECT_EQ(start->sampling().top_p(), 1);
  EXPECT_EQ(start->sampling().repetition_penalty(), 1);
  EXPECT_EQ(start->sampling().seed(), 42U);
  EXPECT_EQ(start->prompt_tokens(), 3U);
}

TEST_P(GenerationTest, ReportSaysWhatWasUsed) {
  AddExecutor(Alphabet(1000));
  StartController(GetParam());
  v1::GenerateRequest request = Request("hi", 5);
  request.mutable_precision()->set_fixed_bits(4);
  const v1::PrecisionReport report = Stream(request).finished.precision();
  EXPECT_EQ(report.policy(), "fixed");
  EXPECT_EQ(report.calibration(), v1::CALIBRATION_STATE_UNCALIBRATED);
  // The first token comes out of the prefill.
  ASSERT_EQ(report.histogram_size(), 2);
  EXPECT_EQ(report.histogram(0).bits(), 4U);
  EXPECT_EQ(report.histogram(0).tokens(), 4U);
  EXPECT_EQ(report.histogram(1).bits(), 8U);
  EXPECT_EQ(report.histogram(1).tokens(), 1U);
  EXPECT_DOUBLE_EQ(report.mean_bits(), (8 + 4 * 4) / 5.0);
  EXPECT_EQ(report.plan_changes(), 1U);
  const auto bytes = [&](int bits) { return model_.layer_groups->BytesRead(PrecisionPlan::Uniform(bits, 9)); };
  EXPECT_EQ(report.weight_bytes_read(), bytes(8) + 4 * bytes(4));
  EXPECT_EQ(report.weight_bytes_top(), 5 * bytes(8));
}

TEST_P(GenerationTest, DynamicPrecisionFollowsTheSignals) {
  AddExecutor([](const std::vector<uint32_t>&, uint32_t index) {
    return ScriptedToken{'a', index == 8 ? 5.0F : 0.0F, {}};
  });
  StartController(GetParam());
  v1::GenerateRequest request = Request("hi", 14);
  request.mutable_output()->set_token_info(true);
  const StreamOutcome outcome = Stream(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  std::vector<double> bits;
  for (const v1::TokenInfo& token : outcome.tokens) {
    bits.push_back(token.bits());
  }
  // With lookahead 1 a token's signals reach the token after the next. 5 nats of 2 keep PPLE high for some tokens.
  const std::vector<double> strict = {8, 6, 5, 4, 3, 3, 3, 3, 3, 8, 6, 5, 4, 4};
  std::vector<double> expected = strict;
  if (GetParam() == 1) {
    expected.insert(expected.begin() + 1, 8);
    expected.pop_back();
  }
  EXPECT_EQ(bits, expected);
  EXPECT_EQ(outcome.finished.precision().policy(), "dynamic");
  EXPECT_EQ(outcome.tokens[8].entropy_nats(), 5);
  for (const v1::TokenInfo& token : outcome.tokens) {
    EXPECT_EQ(kPrecisions[token.level()], token.bits());
    EXPECT_FALSE(token.has_audit_kl());
  }
  // Bounds do not renumber the ladder, and a plan that was asked for is on none.
  request.mutable_precision()->mutable_dynamic();
  request.mutable_precision()->set_min_bits(5);
  EXPECT_EQ(Stream(request).tokens[7].level(), 2U);
  request.mutable_precision()->clear_min_bits();
  request.mutable_precision()->set_fixed_bits(4);
  EXPECT_FALSE(Stream(request).tokens[7].has_level());
}

TEST_P(GenerationTest, TokensSayTheTextThatTheyComplete) {
  AddExecutor(Saying("a\u00e9b.\xe2"));
  StartController(GetParam());
  v1::GenerateRequest request = Request("hi");
  request.mutable_output()->set_token_info(true);
  EXPECT_EQ(Stream(request).tokens[0].text(), "");  // not asked for
  request.mutable_output()->set_token_text(true);
  request.mutable_output()->set_top_logprobs(1);
  const StreamOutcome outcome = Stream(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  std::vector<std::string> texts;
  std::vector<std::string> pieces;
  std::string joined;
  for (const v1::TokenInfo& token : outcome.tokens) {
    texts.push_back(token.text());
    pieces.push_back(token.piece());
    joined += token.text();
  }
  // The last token has what no later one can complete.
  EXPECT_EQ(texts, (std::vector<std::string>{"a", "", "\u00e9", "b", ".", "", "\ufffd"}));
  EXPECT_EQ(pieces, (std::vector<std::string>{"a", "\xc3", "\xa9", "b", ".", "\xe2", "<eos>"}));
  EXPECT_EQ(joined, outcome.text);

  // What a stop string holds back or cuts off was completed all the same.
  request.mutable_stop()->add_stop_strings("b.");
  const StreamOutcome stopped = Stream(request);
  EXPECT_EQ(stopped.text, "a\u00e9");
  EXPECT_EQ(stopped.tokens.back().text(), ".");
}

TEST_P(GenerationTest, ExtraTokenAfterAStopIsDropped) {
  testing::FakeExecutor& executor = AddExecutor(Alphabet(2));
  executor.HoldResults();
  StartController(GetParam());
  auto answer = StreamInBackground(Request("hi"));
  // Prefill and two decodes; with lookahead the step after the end-of-sequence leaves too.
  const size_t ahead = static_cast<size_t>(GetParam());
  ASSERT_TRUE(executor.WaitForSteps(1 + ahead));
  executor.AllowResults(1);
  ASSERT_TRUE(executor.WaitForSteps(2 + ahead));
  executor.AllowResults(1);
  ASSERT_TRUE(executor.WaitForSteps(3 + ahead));
  executor.ResumeResults();
  EXPECT_EQ(answer.get().token_ids, (std::vector<uint32_t>{'a', 'b', kEos}));
  ASSERT_TRUE(executor.WaitUntilIdle());
  EXPECT_EQ(executor.steps().size(), 3 + ahead);
  // The next request is not disturbed by the late result.
  EXPECT_EQ(Stream(Request("again")).text, "ab");
  ExpectNoViolations();
}

TEST(LookaheadTest, TheNextStepLeavesBeforeTheResult) {
  class Fixture : public ServiceTest {
   public:
    void TestBody() override {}
    void Check(int lookahead, size_t steps_out) {
      testing::FakeExecutor& executor = AddExecutor(Alphabet(6));
      executor.HoldResults();
      StartController(lookahead);
      auto answer = StreamInBackground(Request("hi"));
      ASSERT_TRUE(executor.WaitForSteps(steps_out));
      EXPECT_EQ(executor.steps().size(), steps_out);
      executor.AllowResults(1);
      ASSERT_TRUE(executor.WaitForSteps(steps_out + 1));
      EXPECT_EQ(executor.steps().size(), steps_out + 1);
      executor.ResumeResults();
      EXPECT_EQ(answer.get().text, "abcdef");
    }
  };
  Fixture().Check(0, 1);
  Fixture().Check(1, 2);
}

TEST_F(ServiceTest, ConcurrentRequestsShareSteps) {
  testing::FakeExecutor& executor = AddExecutor(Alphabet(20));
  executor.HoldResults();
  StartController();
  std::vector<std::unique_ptr<LiveStream>> streams;
  for (int i = 0; i < 4; ++i) {
    streams.push_back(OpenStarted(Request("hi", 30)));
  }
  executor.ResumeResults();
  for (const auto& stream : streams) {
    const StreamOutcome outcome = Rest(*stream);
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_EQ(outcome.text, "abcdefghijklmnopqrst");
  }
  const std::vector<RecordedStep> steps = executor.steps();
  // All had been admitted before the first result: at most two steps were sent without some of them.
  ASSERT_GE(steps.size(), 3U);
  EXPECT_EQ(steps[2].size(), 4U);
  EXPECT_LE(steps.size(), 26U);
  ExpectNoViolations();
}

// The plans that two running sequences got in their common steps, by batch mode.
class BatchModeTest : public ServiceTest {
 protected:
  // Runs an answer at 3 and one at 6 bits side by side; returns the plans of all decodes of the first.
  std::set<std::vector<int>> PlansOfTheCheaper(v1::BatchMode mode) {
    testing::FakeExecutor& executor = AddExecutor(Alphabet(1000));
    executor.HoldResults();
    StartController(0);
    v1::GenerateRequest cheap = Request("cheap", 30);
    cheap.mutable_precision()->set_fixed_bits(3);
    cheap.set_batch_mode(mode);
    v1::GenerateRequest dear = Request("the dearer", 30);
    dear.mutable_precision()->set_fixed_bits(6);
    dear.set_batch_mode(mode);
    const auto first = OpenStarted(cheap);
    EXPECT_TRUE(executor.WaitForSteps(1));
    const auto second = OpenStarted(dear);
    executor.ResumeResults();
    cheap_outcome_ = Rest(*first);
    Rest(*second);
    std::set<std::vector<int>> plans;
    for (const RecordedStep& step : executor.steps()) {
      for (const RecordedSequence& sequence : step) {
        const bool with_mate = step.size() == 2 && step[0].token_ids.empty() && step[1].token_ids.empty();
        if (sequence.sequence_id == executor.steps()[0][0].sequence_id && with_mate) {
          plans.insert(sequence.plan);
        }
      }
    }
    return plans;
  }

  StreamOutcome cheap_outcome_;
};

TEST_F(BatchModeTest, SharedSequencesRunAtTheDearestPlan) {
  const std::set<std::vector<int>> expected = {std::vector<int>(9, 6)};
  EXPECT_EQ(PlansOfTheCheaper(v1::BATCH_MODE_SHARED), expected);
  // The report counts what was used, not what was asked for.
  bool saw_six = false;
  for (const auto& count : cheap_outcome_.finished.precision().histogram()) {
    saw_six = saw_six || count.bits() == 6;
  }
  EXPECT_TRUE(saw_six);
}

TEST_F(BatchModeTest, IsolatedSequencesKeepTheirOwn) {
  const std::set<std::vector<int>> expected = {std::vector<int>(9, 3)};
  EXPECT_EQ(PlansOfTheCheaper(v1::BATCH_MODE_ISOLATED), expected);
  EXPECT_DOUBLE_EQ(cheap_outcome_.finished.precision().mean_bits(), (8 + 29 * 3) / 30.0);
}

TEST_F(ServiceTest, ManyConcurrentRequestsOverTwoExecutors) {
  testing::FakeExecutorOptions second;
  second.instance_id = "other";
  AddExecutor(Alphabet(12));
  AddExecutor(Alphabet(12), second);
  StartController();
  std::vector<std::future<StreamOutcome>> answers;
  for (int i = 0; i < 40; ++i) {
    answers.push_back(StreamInBackground(Request(std::string(static_cast<size_t>(1 + i % 30), 'x'))));
  }
  for (auto& answer : answers) {
    const StreamOutcome outcome = answer.get();
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_EQ(outcome.text, "abcdefghijkl");
  }
  for (const auto& executor : executors_) {
    EXPECT_TRUE(executor->WaitUntilIdle());
  }
  ExpectNoViolations();
}

}  // namespace
}  // namespace flexquant::controller
