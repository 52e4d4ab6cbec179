// An executor that dies, hangs, restarts or shuts down costs no stream and no token; KV blocks that run out neither.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/controller/service_fixture.h"

namespace flexquant::controller {
namespace {

using testing::FakeExecutor;
using testing::FakeExecutorOptions;
using ::testing::HasSubstr;
using testing::RecordedSequence;
using testing::RecordedStep;
using testing::ScriptedToken;

constexpr std::chrono::seconds kPatience{30};

// Letters with an entropy that makes the dynamic policy move.
FakeExecutor::Script Wavering(uint32_t length) {
  return [length](const std::vector<uint32_t>& /*prompt*/, uint32_t index) {
    return ScriptedToken{index < length ? 'a' + index % 26 : kEos, index % 8 < 4 ? 0.0F : 6.0F, {}};
  };
}

// The tokens of a sequence in the order in which they were computed, each with its plan; decode steps have no token.
struct Computed {
  std::vector<uint32_t> positions;
  std::vector<std::vector<int>> plans;
};
Computed PlansByPosition(const std::vector<RecordedStep>& steps, uint64_t sequence_id) {
  Computed computed;
  for (const RecordedStep& step : steps) {
    for (const RecordedSequence& part : step) {
      for (size_t i = 0; part.sequence_id == sequence_id && i < std::max<size_t>(part.token_ids.size(), 1); ++i) {
        computed.positions.push_back(part.position + static_cast<uint32_t>(i));
        computed.plans.push_back(part.plan);
      }
    }
  }
  return computed;
}

class FailoverTest : public ServiceTest, public ::testing::WithParamInterface<int> {
 protected:
  // Executors of different epochs that say the same.
  std::pair<FakeExecutor&, FakeExecutor&> AddTwo() {
    FakeExecutorOptions other;
    other.instance_id = "other";
    FakeExecutor& first = AddExecutor(Alphabet(1000));
    return {first, AddExecutor(Alphabet(1000), other)};
  }
  // A request whose plan changes from token to token.
  static v1::GenerateRequest Dynamic(uint32_t max_tokens) {
    v1::GenerateRequest request = Request("hello", max_tokens);
    request.set_batch_mode(v1::BATCH_MODE_ISOLATED);
    request.mutable_precision()->mutable_dynamic();
    request.mutable_output()->set_token_info(true);
    return request;
  }
};

INSTANTIATE_TEST_SUITE_P(Lookahead, FailoverTest, ::testing::Values(0, 1));

TEST_P(FailoverTest, AStreamGoesOnWithTheNextLifeOfItsExecutorAtTheSamePlans) {
  FakeExecutor& executor = AddExecutor(Wavering(1000));
  StartController(GetParam());
  const StreamOutcome undisturbed = Stream(Dynamic(40));
  ASSERT_TRUE(undisturbed.status.ok()) << undisturbed.status;
  ASSERT_GT(undisturbed.finished.precision().plan_changes(), 5U);
  const size_t steps_before = executor.steps().size();
  const Computed first = PlansByPosition(executor.steps(), 1);

  executor.HoldResults();
  const auto live = OpenStarted(Dynamic(40));
  executor.AllowResults(17);
  ASSERT_TRUE(executor.WaitForSteps(steps_before + 17 + static_cast<size_t>(GetParam())));
  executor.Die();
  executor.ResumeResults();
  executor.Restart("epoch-2");
  const StreamOutcome disturbed = Rest(*live);
  ASSERT_TRUE(disturbed.status.ok()) << disturbed.status;
  EXPECT_EQ(disturbed.text, undisturbed.text);
  EXPECT_EQ(disturbed.token_ids, undisturbed.token_ids);
  ASSERT_EQ(disturbed.tokens.size(), undisturbed.tokens.size());
  for (size_t i = 0; i < disturbed.tokens.size(); ++i) {
    EXPECT_EQ(disturbed.tokens[i].bits(), undisturbed.tokens[i].bits()) << i;
  }
  EXPECT_EQ(disturbed.num_started, 1);
  EXPECT_EQ(disturbed.num_finished, 1);
  EXPECT_EQ(executor.streams_opened(), 2);

  // On the new life every position was computed once, at the plan that it had in the undisturbed answer.
  const std::vector<RecordedStep> steps = executor.steps();
  const auto resumed = std::find_if(steps.begin() + static_cast<int64_t>(steps_before) + 17, steps.end(),
                                    [](const RecordedStep& step) { return step[0].start.has_value(); });
  ASSERT_NE(resumed, steps.end());
  const Computed second = PlansByPosition({resumed, steps.end()}, (*resumed)[0].sequence_id);
  EXPECT_EQ(second.positions, first.positions);
  EXPECT_EQ(second.plans, first.plans);
  ExpectNoViolations();
}

TEST_P(FailoverTest, AnotherExecutorTakesOverAtOnce) {
  const auto [first, second] = AddTwo();
  StartController(GetParam());
  first.HoldResults();
  second.HoldResults();
  std::vector<std::unique_ptr<LiveStream>> streams;
  for (int i = 0; i < 4; ++i) {
    streams.push_back(OpenStarted(Request("hi", 30)));
  }
  first.AllowResults(5);
  second.AllowResults(5);
  FakeExecutor& dying = first.steps().empty() ? second : first;
  dying.Die();
  first.ResumeResults();
  second.ResumeResults();
  for (const auto& stream : streams) {
    const StreamOutcome outcome = Rest(*stream);
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_EQ(outcome.text, "abcdefghijklmnopqrstuvwxyzabcd");
  }
  ExpectNoViolations();
}

TEST_P(FailoverTest, DeathWhileThePromptIsComputed) {
  FakeExecutor& executor = AddExecutor(Alphabet(1000));
  options_.worker.prefill_chunk_tokens = 4;
  StartController(GetParam());
  executor.HoldResults();
  const auto live = OpenStarted(Request("a prompt of several chunks", 5));
  ASSERT_TRUE(executor.WaitForSteps(1));
  executor.Die();
  executor.ResumeResults();
  executor.Restart("epoch-2");
  EXPECT_EQ(Rest(*live).text, "abcde");
  ExpectNoViolations();
}

TEST_P(FailoverTest, AHungExecutorLosesItsSequencesToAnotherOne) {
  const auto [first, second] = AddTwo();
  options_.worker.step_timeout = absl::Milliseconds(100);
  StartController(GetParam());
  first.HoldResults();
  EXPECT_EQ(Stream(Request("hi", 6)).text, "abcdef");
  EXPECT_EQ(Stream(Request("hi", 6)).text, "abcdef");
  EXPECT_FALSE(second.steps().empty());
}

TEST_P(FailoverTest, ARequestThatKillsEveryExecutorEnds) {
  FakeExecutor* executor = nullptr;
  std::atomic<int> deaths{0};
  executor = &AddExecutor(Alphabet(1000));
  StartController(GetParam());
  executor->HoldResults();
  auto live = StreamInBackground(Request("poison", 5));
  while (live.wait_for(std::chrono::milliseconds(5)) != std::future_status::ready) {
    if (!executor->steps().empty() && executor->streams_opened() > deaths) {
      deaths = executor->streams_opened();
      executor->Die();
      executor->Restart(absl::StrCat("epoch-", deaths + 1));
    }
  }
  const absl::Status status = live.get().status;
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(ReasonOf(status), "EXECUTOR_LOST");
  EXPECT_THAT(std::string(status.message()), HasSubstr("lost 3 executors"));
}

TEST_P(FailoverTest, AShuttingDownExecutorHandsItsSequencesOver) {
  const auto [first, second] = AddTwo();
  StartController(GetParam());
  first.HoldResults();
  second.HoldResults();
  const auto live = OpenStarted(Request("hi", 30));
  while (first.steps().empty() && second.steps().empty()) {
    std::this_thread::yield();
  }
  FakeExecutor& leaving = first.steps().empty() ? second : first;
  FakeExecutor& staying = &leaving == &first ? second : first;
  leaving.AllowResults(3);
  ASSERT_TRUE(leaving.WaitForSteps(4));
  leaving.Drain();
  EXPECT_TRUE(leaving.WaitUntilIdle());
  first.ResumeResults();
  second.ResumeResults();
  const StreamOutcome outcome = Rest(*live);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_EQ(outcome.text, "abcdefghijklmnopqrstuvwxyzabcd");
  EXPECT_FALSE(staying.steps().empty());
  ExpectNoViolations();
}

TEST_P(FailoverTest, TheLastExecutorMayFinishWhatItHas) {
  FakeExecutor& executor = AddExecutor(Alphabet(1000));
  StartController(GetParam());
  executor.HoldResults();
  const auto live = OpenStarted(Request("hi", 30));
  ASSERT_TRUE(executor.WaitForSteps(1));
  executor.Drain();
  StreamOutcome refused;
  do {  // until the controller has heard of it, a request would wait: give it a deadline
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
    refused = Stream(Request("late"), context);
  } while (refused.status.code() == absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused.status.message()), HasSubstr("shutting down"));
  executor.ResumeResults();
  EXPECT_EQ(Rest(*live).text, "abcdefghijklmnopqrstuvwxyzabcd");
  ExpectNoViolations();
}

TEST_P(FailoverTest, WithoutAnyExecutorRequestsWaitAndThenFail) {
  FakeExecutor& executor = AddExecutor(Alphabet(1000));
  options_.failover_timeout = absl::Milliseconds(200);
  StartController(GetParam());
  executor.HoldResults();
  const auto live = OpenStarted(Request("hi", 30));
  executor.AllowResults(3);
  ASSERT_TRUE(executor.WaitForSteps(4));
  const absl::Time died = absl::Now();
  executor.Die();
  const absl::Status status = Rest(*live).status;
  EXPECT_GE(absl::Now() - died, absl::Milliseconds(150));
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
  EXPECT_EQ(ReasonOf(status), "EXECUTOR_LOST");
}

TEST_P(FailoverTest, CancellationAndDeadlineHoldWhileNoExecutorIsThere) {
  FakeExecutor& executor = AddExecutor(Alphabet(1000));
  StartController(GetParam());
  executor.HoldResults();
  const auto live = OpenStarted(Request("hi", 30));
  executor.Die();
  live->context.TryCancel();
  EXPECT_EQ(Rest(*live).status.code(), absl::StatusCode::kCancelled);
  // Its place is free again on the server, too.
  scheduler_->Drain(absl::Now() + absl::Seconds(30));
  executor.Restart("epoch-2");
}

TEST_P(FailoverTest, PreemptionWhenKvBlocksRunOutCostsNoToken) {
  FakeExecutorOptions options;
  options.num_kv_blocks = 12;  // 48 tokens; three answers of 6 + 30 need 27 blocks
  FakeExecutor& executor = AddExecutor(Wavering(1000), options);
  StartController(GetParam());
  std::vector<std::future<StreamOutcome>> answers;
  for (int i = 0; i < 3; ++i) {
    answers.push_back(StreamInBackground(Dynamic(30)));
  }
  for (auto& answer : answers) {
    const StreamOutcome outcome = answer.get();
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_EQ(outcome.text, "abcdefghijklmnopqrstuvwxyzabcd");
  }
  size_t starts = 0;
  size_t together = 0;
  for (const RecordedStep& step : executor.steps()) {
    together = std::max(together, step.size());
    for (const RecordedSequence& part : step) {
      starts += part.start.has_value() ? 1 : 0;
    }
  }
  EXPECT_GT(starts, 3U);    // somebody had to leave and came back
  EXPECT_GT(together, 1U);  // although all were let in by what they had, not by what they might say
  EXPECT_TRUE(executor.WaitUntilIdle());
  ExpectNoViolations();
}

TEST_P(FailoverTest, ASharedPrefixIsComputedOnce) {
  FakeExecutor& executor = AddExecutor(Alphabet(1000));
  StartController(GetParam());
  EXPECT_EQ(Stream(Request("a long common beginning: one", 3)).text, "abc");
  const size_t before = executor.steps().size();
  EXPECT_EQ(Stream(Request("a long common beginning: two", 3)).text, "abc");
  const std::vector<RecordedStep> steps = executor.steps();
  // 1 + 25 tokens are the same, six blocks of four.
  ASSERT_TRUE(steps[before][0].start.has_value());
  EXPECT_EQ(steps[before][0].start->cached_token_ids_size(), 24);
  EXPECT_EQ(steps[before][0].position, 24U);
  EXPECT_EQ(steps[before][0].token_ids.size(), 5U);
  // Of the very same prompt all but the last block: something has to be left to compute.
  const size_t again = steps.size();
  EXPECT_EQ(Stream(Request("a long common beginning: two", 3)).text, "abc");
  EXPECT_EQ(executor.steps()[again][0].start->cached_token_ids_size(), 28);
  ExpectNoViolations();
}

TEST_P(FailoverTest, AbortByRequestIdAndSupersedingByARetry) {
  FakeExecutor& executor = AddExecutor(Alphabet(1000));
  StartController(GetParam());
  executor.HoldResults();
  v1::GenerateRequest request = Request("hi", 50);
  request.set_request_id("mine");
  const auto first = OpenStarted(request);
  const auto second = OpenStarted(request);
  const absl::Status superseded = Rest(*first).status;
  EXPECT_EQ(superseded.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(superseded), "SUPERSEDED");

  const auto abort = [&](const std::string& id) {
    grpc::ClientContext context;
    v1::AbortRequest abort_request;
    abort_request.set_request_id(id);
    v1::AbortResponse response;
    return FromGrpcStatus(stub_->Abort(&context, abort_request, &response));
  };
  EXPECT_TRUE(abort("mine").ok());
  const absl::Status aborted = Rest(*second).status;
  EXPECT_EQ(aborted.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(ReasonOf(aborted), "ABORTED_BY_REQUEST_ID");
  EXPECT_TRUE(executor.WaitUntilIdle());
  EXPECT_EQ(abort("mine").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ViolatedField(abort("")), "request_id");
}

TEST_P(FailoverTest, AnotherCallGoesOnWhereAnAnswerStands) {
  FakeExecutor& executor = AddExecutor(Wavering(1000));
  StartController(GetParam());
  v1::GenerateRequest request = Dynamic(40);
  request.mutable_sampling()->set_seed(7);
  request.mutable_stop()->add_stop_strings("never");
  const StreamOutcome whole = Stream(request);
  ASSERT_TRUE(whole.status.ok()) << whole.status;
  const Computed first = PlansByPosition(executor.steps(), 1);
  for (const int received : {0, 1, 2, 17, 39}) {
    v1::GenerateRequest resumed = request;
    resumed.mutable_resume()->set_kl_factor(whole.started.kl_factor());
    std::string text;
    for (int i = 0; i < received; ++i) {
      v1::ResumedToken* token = resumed.mutable_resume()->add_tokens();
      token->set_id(whole.tokens[i].id());
      token->set_entropy_nats(whole.tokens[i].entropy_nats());
      token->set_top1_probability(whole.tokens[i].top1_probability());
      token->set_margin(whole.tokens[i].margin());
    }
    const size_t before = executor.steps().size();
    const StreamOutcome rest = Stream(resumed);
    ASSERT_TRUE(rest.status.ok()) << rest.status;
    EXPECT_EQ(rest.token_ids, std::vector<uint32_t>(whole.token_ids.begin() + received, whole.token_ids.end()));
    EXPECT_EQ(rest.text, whole.text.substr(static_cast<size_t>(received)));
    EXPECT_EQ(rest.finished.usage().generated_tokens(), 40U);
    EXPECT_EQ(rest.finished.precision().mean_bits(), whole.finished.precision().mean_bits());
    const std::vector<RecordedStep> steps = executor.steps();
    Computed second =
        PlansByPosition({steps.begin() + static_cast<int64_t>(before), steps.end()}, steps[before][0].sequence_id);
    // The first block is shared with the call before.
    EXPECT_EQ(second.positions, std::vector<uint32_t>(first.positions.begin() + 4, first.positions.end()));
    EXPECT_EQ(second.plans, std::vector<std::vector<int>>(first.plans.begin() + 4, first.plans.end()));
  }
  ExpectNoViolations();
}

TEST_P(FailoverTest, AnAnswerThatWasWholeEndsAtOnce) {
  FakeExecutor& executor = AddExecutor(Alphabet(3));
  StartController(GetParam());
  struct Case {
    std::vector<uint32_t> tokens;
    uint32_t max_tokens;
    std::string cause;
  };
  for (const Case& c : {Case{{'a', 'b', kEos}, 100, "eos"}, {{'a', 'b'}, 2, "max_tokens"}}) {
    v1::GenerateRequest request = Request("hi", c.max_tokens);
    request.mutable_sampling()->set_seed(7);
    for (const uint32_t id : c.tokens) {
      request.mutable_resume()->add_tokens()->set_id(id);
    }
    const StreamOutcome outcome = Stream(request);
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_EQ(outcome.num_started, 1);
    EXPECT_EQ(outcome.text, "");
    EXPECT_EQ(outcome.finished.stop_cause(), c.cause);
    EXPECT_EQ(outcome.finished.usage().generated_tokens(), c.tokens.size());
  }
  EXPECT_TRUE(executor.steps().empty());
}

TEST_P(FailoverTest, WhatCannotBeResumedIsRefused) {
  AddExecutor(Alphabet(3));
  StartController(GetParam());
  v1::GenerateRequest request = Request("hi", 2);
  request.mutable_resume()->add_tokens()->set_id('a');
  EXPECT_EQ(ViolatedField(Stream(request).status), "sampling.seed");
  request.mutable_sampling()->set_seed(7);
  request.mutable_resume()->set_kl_factor(0.5);
  EXPECT_EQ(ViolatedField(Stream(request).status), "resume.kl_factor");
  request.mutable_resume()->set_kl_factor(1);
  for (const double kl : {-0.1, 1e308, std::numeric_limits<double>::quiet_NaN()}) {
    request.mutable_resume()->set_backend_kl(kl);
    EXPECT_EQ(ViolatedField(Stream(request).status), "resume.backend_kl") << kl;
  }
  request.mutable_resume()->set_backend_kl(0);
  request.mutable_resume()->mutable_tokens(0)->set_id(kTestVocab);
  EXPECT_EQ(ViolatedField(Stream(request).status), "resume.tokens[0].id");
  request.mutable_resume()->mutable_tokens(0)->set_id('a');
  request.mutable_resume()->add_tokens()->set_id('b');
  request.mutable_resume()->add_tokens()->set_id('c');
  EXPECT_EQ(ViolatedField(Stream(request).status), "resume.tokens");
}

TEST_P(FailoverTest, AStreamThatNobodyReadsIsPausedAndThenEnded) {
  FakeExecutorOptions options;
  options.num_kv_blocks = 1000;
  FakeExecutor& executor = AddExecutor(Alphabet(100'000), options);
  options_.worker.slow_reader_timeout = absl::Milliseconds(300);
  model_.config.max_context = 200'000;
  StartController(GetParam());
  v1::GenerateRequest request = Request("hi", 3'000);
  request.mutable_output()->set_token_info(true);
  const auto unread = OpenStarted(request);
  ASSERT_TRUE(executor.WaitForSteps(100));
  // It stops being computed long before its end, and then the server ends it.
  EXPECT_TRUE(executor.WaitUntilIdle());
  EXPECT_LT(executor.steps().size(), 3'000U);
  EXPECT_FALSE(Rest(*unread).status.ok());
  EXPECT_EQ(unread->outcome.num_finished, 0);
  ExpectNoViolations();
}

TEST_P(FailoverTest, AStreamThatIsReadAgainGoesOn) {
  FakeExecutorOptions options;
  options.num_kv_blocks = 1000;
  FakeExecutor& executor = AddExecutor(Alphabet(100'000), options);
  model_.config.max_context = 200'000;
  StartController(GetParam());
  v1::GenerateRequest request = Request("hi", 3'000);
  request.mutable_output()->set_token_info(true);
  const auto slow = OpenStarted(request);
  ASSERT_TRUE(executor.WaitForSteps(100));
  executor.WaitUntilQuiet(absl::Milliseconds(100));
  EXPECT_LT(executor.steps().size(), 3'000U);
  const StreamOutcome outcome = Rest(*slow);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_EQ(outcome.token_ids.size(), 3'000U);
}

}  // namespace
}  // namespace flexquant::controller
