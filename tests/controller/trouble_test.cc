// What goes wrong: full queues, cancellations, deadlines, executors that are absent, die, restart or misbehave.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "tests/controller/service_fixture.h"

namespace flexquant::controller {
namespace {

using testing::FakeExecutor;
using testing::FakeExecutorOptions;
using ::testing::HasSubstr;
using testing::ScriptedToken;

constexpr std::chrono::seconds kPatience{30};

TEST_F(ServiceTest, KvExhaustionQueuesAndThenServes) {
  FakeExecutorOptions options;
  options.num_kv_blocks = 8;  // 32 tokens: one answer of 3 + 20 tokens at a time
  AddExecutor(Alphabet(1000), options);
  StartController();
  std::vector<std::future<StreamOutcome>> answers;
  for (int i = 0; i < 5; ++i) {
    answers.push_back(StreamInBackground(Request("hi", 20)));
  }
  for (auto& answer : answers) {
    const StreamOutcome outcome = answer.get();
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_EQ(outcome.token_ids.size(), 20U);
  }
  ExpectNoViolations();
}

TEST_F(ServiceTest, PromptBeyondTheKvCacheIsInvalid) {
  FakeExecutorOptions options;
  options.num_kv_blocks = 4;
  AddExecutor(Alphabet(5), options);
  StartController();
  const absl::Status status = Stream(Request(std::string(20, 'x'))).status;
  EXPECT_EQ(ViolatedField(status), "prompt");
  EXPECT_THAT(std::string(status.message()), HasSubstr("KV cache"));
}

// One request runs, one waits, more are refused. Results are held.
class FullQueueTest : public ServiceTest {
 protected:
  FakeExecutor& StartFullAfterTwo() {
    FakeExecutorOptions options;
    options.max_sequences = 1;
    FakeExecutor& executor = AddExecutor(Alphabet(5), options);
    executor.HoldResults();
    options_.queue.max_requests = 1;
    StartController();
    return executor;
  }
};

TEST_F(FullQueueTest, FullQueueIsResourceExhaustedWithARetryHint) {
  FakeExecutor& executor = StartFullAfterTwo();
  auto running = StreamInBackground(Request("hi"));
  ASSERT_TRUE(executor.WaitForSteps(1));
  // One of these two waits, the other one finds the queue full.
  auto second = StreamInBackground(Request("hi"));
  auto third = StreamInBackground(Request("hi"));
  while (second.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready &&
         third.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready) {
  }
  executor.ResumeResults();
  std::vector<StreamOutcome> outcomes;
  outcomes.push_back(second.get());
  outcomes.push_back(third.get());
  const bool second_refused = !outcomes[0].status.ok();
  const StreamOutcome& refused = outcomes[second_refused ? 0 : 1];
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused.status), "QUEUE_FULL");
  EXPECT_TRUE(HasRetryDelay(refused.status));
  EXPECT_TRUE(refused.events.empty());
  EXPECT_EQ(outcomes[second_refused ? 1 : 0].text, "abcde");
  EXPECT_EQ(running.get().text, "abcde");
}

TEST_F(FullQueueTest, ARetryThatIsRefusedLeavesTheOlderOneAsItIs) {
  FakeExecutor& executor = StartFullAfterTwo();
  v1::GenerateRequest request = Request("hi");
  request.set_request_id("mine");
  const auto older = OpenStarted(request);
  ASSERT_TRUE(executor.WaitForSteps(1));
  auto waiting = StreamInBackground(Request("hi"));
  while (scheduler_->Figures().waiting < 1) {
    std::this_thread::yield();
  }
  EXPECT_EQ(ReasonOf(Stream(request).status), "QUEUE_FULL");
  // It still has its name.
  grpc::ClientContext context;
  v1::AbortRequest abort;
  abort.set_request_id("mine");
  v1::AbortResponse response;
  EXPECT_TRUE(stub_->Abort(&context, abort, &response).ok());
  EXPECT_EQ(ReasonOf(Rest(*older).status), "ABORTED_BY_REQUEST_ID");
  executor.ResumeResults();
  EXPECT_EQ(waiting.get().text, "abcde");
}

TEST_F(ServiceTest, InvalidRequestCarriesItsFieldOverTheWire) {
  AddExecutor(Alphabet(5));
  StartController();
  v1::GenerateRequest request = Request("hi");
  request.mutable_sampling()->set_top_p(0);
  const StreamOutcome outcome = Stream(request);
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ViolatedField(outcome.status), "sampling.top_p");
  EXPECT_TRUE(outcome.events.empty());
}

TEST_F(ServiceTest, CancellationReleasesARunningRequestWithoutWaitingForItsStep) {
  FakeExecutor& executor = AddExecutor(Alphabet(1000));
  StartController();
  executor.HoldResults();
  const auto running = OpenStarted(Request("hi"));
  ASSERT_TRUE(executor.WaitForSteps(1));
  running->context.TryCancel();
  EXPECT_EQ(Rest(*running).status.code(), absl::StatusCode::kCancelled);
  // Released although the executor has not answered a single step.
  EXPECT_TRUE(executor.WaitUntilIdle());
  executor.ResumeResults();
  EXPECT_EQ(Stream(Request("next", 3)).text, "abc");
  ExpectNoViolations();
}

TEST_F(FullQueueTest, CancellationOfAQueuedRequest) {
  FakeExecutor& executor = StartFullAfterTwo();
  auto running = StreamInBackground(Request("hi"));
  ASSERT_TRUE(executor.WaitForSteps(1));
  grpc::ClientContext context;
  v1::GenerateStreamRequest request;
  *request.mutable_request() = Request("queued");
  const auto reader = stub_->GenerateStream(&context, request);
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  // Its place in the queue is free again: a third request gets in as soon as the cancellation has arrived.
  std::future<StreamOutcome> third;
  do {
    third = StreamInBackground(Request("third"));
  } while (third.wait_for(std::chrono::milliseconds(20)) == std::future_status::ready && !third.get().status.ok());
  executor.ResumeResults();
  EXPECT_EQ(running.get().text, "abcde");
  EXPECT_EQ(third.get().text, "abcde");
  ExpectNoViolations();
}

TEST_F(ServiceTest, DeadlineEndsARunningAndAQueuedRequest) {
  FakeExecutorOptions options;
  options.max_sequences = 1;
  FakeExecutor& executor = AddExecutor(Alphabet(1000), options);
  executor.HoldResults();
  StartController();
  const auto stream_with_deadline = [&] {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
    return Stream(Request("hi"), context);
  };
  auto running = std::async(std::launch::async, stream_with_deadline);
  ASSERT_TRUE(executor.WaitForSteps(1));
  auto queued = std::async(std::launch::async, stream_with_deadline);
  ASSERT_EQ(running.wait_for(kPatience), std::future_status::ready);
  ASSERT_EQ(queued.wait_for(kPatience), std::future_status::ready);
  EXPECT_EQ(running.get().status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(queued.get().status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(executor.WaitUntilIdle());
  executor.ResumeResults();
  EXPECT_EQ(Stream(Request("next", 3)).text, "abc");
}

TEST_F(ServiceTest, AbsentExecutorIsUnavailableAtOnce) {
  targets_.push_back({"127.0.0.1:1", nullptr});
  StartController(1, /*wait_ready=*/false);
  const StreamOutcome outcome = Stream(Request("hi"));
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(outcome.status), "NO_EXECUTOR");
  EXPECT_TRUE(HasRetryDelay(outcome.status));
  EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("127.0.0.1:1"));
  const absl::Status ready = scheduler_->WaitReady(absl::Milliseconds(50));
  EXPECT_EQ(ready.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(ready.message()), HasSubstr("127.0.0.1:1"));
  grpc::ClientContext context;
  v1::GetServerInfoResponse info;
  EXPECT_EQ(v1::ModelService::NewStub(channel_)->GetServerInfo(&context, {}, &info).error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ServiceTest, ExecutorOfAnotherModelIsRefused) {
  FakeExecutorOptions options;
  options.model_revision = "something else";
  AddExecutor(Alphabet(5), options);
  StartController(1, /*wait_ready=*/false);
  EXPECT_FALSE(scheduler_->WaitReady(absl::Milliseconds(200)).ok());
  const absl::Status status = Stream(Request("hi")).status;
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("something else"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("same model folder"));
}

TEST_F(ServiceTest, ExecutorWithOtherLayerGroupsIsRefused) {
  FakeExecutorOptions options;
  options.num_layer_groups = 5;
  AddExecutor(Alphabet(5), options);
  StartController(1, /*wait_ready=*/false);
  const absl::Status ready = scheduler_->WaitReady(absl::Milliseconds(200));
  EXPECT_THAT(std::string(ready.message()), HasSubstr("5 layer groups"));
}

TEST_F(ServiceTest, DeathMidStreamEndsEveryRequestAndARestartServesNewOnes) {
  FakeExecutorOptions options;
  options.max_sequences = 2;
  FakeExecutor& executor = AddExecutor(Alphabet(1000), options);
  executor.HoldResults();
  options_.failover_timeout = absl::ZeroDuration();
  StartController();
  const auto with_tokens = OpenStarted(Request("first", 50));
  ASSERT_TRUE(executor.WaitForSteps(2));
  executor.AllowResults(2);
  ASSERT_TRUE(executor.WaitForSteps(4));
  const auto without_tokens = OpenStarted(Request("second", 50));
  executor.AllowResults(1);
  ASSERT_TRUE(executor.WaitForSteps(5));
  ASSERT_EQ(executor.steps().back().size(), 2U);

  executor.Die();
  const StreamOutcome first = Rest(*with_tokens);
  EXPECT_EQ(first.status.code(), absl::StatusCode::kAborted) << first.status;
  EXPECT_EQ(ReasonOf(first.status), "EXECUTOR_LOST");
  EXPECT_EQ(first.num_finished, 0);
  EXPECT_FALSE(first.text.empty());
  const StreamOutcome second = Rest(*without_tokens);
  EXPECT_EQ(second.status.code(), absl::StatusCode::kUnavailable) << second.status;
  EXPECT_TRUE(HasRetryDelay(second.status));
  EXPECT_EQ(Stream(Request("third")).status.code(), absl::StatusCode::kUnavailable);

  executor.ResumeResults();
  executor.Restart("epoch-2");
  ASSERT_TRUE(scheduler_->WaitReady(absl::Seconds(30)).ok());
  EXPECT_EQ(Stream(Request("fourth", 3)).text, "abc");
  EXPECT_EQ(scheduler_->ExecutorStates()[0].description->instance_id, "epoch-2");
  EXPECT_EQ(executor.streams_opened(), 2);
  ExpectNoViolations();
}

TEST_F(ServiceTest, QueuedRequestsFailWhenTheLastExecutorIsLost) {
  FakeExecutorOptions options;
  options.max_sequences = 1;
  FakeExecutor& executor = AddExecutor(Alphabet(1000), options);
  executor.HoldResults();
  options_.failover_timeout = absl::ZeroDuration();
  StartController();
  auto running = StreamInBackground(Request("running"));
  ASSERT_TRUE(executor.WaitForSteps(1));
  auto queued = StreamInBackground(Request("queued"));
  executor.Die();
  ASSERT_EQ(queued.wait_for(kPatience), std::future_status::ready);
  EXPECT_EQ(queued.get().status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(running.get().status.code(), absl::StatusCode::kUnavailable);
}

TEST_F(ServiceTest, AnotherExecutorTakesOver) {
  FakeExecutorOptions second;
  second.instance_id = "other";
  FakeExecutor& dying = AddExecutor(Alphabet(5));
  AddExecutor(Alphabet(5), second);
  StartController();
  dying.Die();
  std::vector<StreamOutcome> outcomes;
  // Until the loss is noticed a request may still meet the dead one; it is then told so.
  do {
    outcomes.push_back(Stream(Request("hi")));
  } while (scheduler_->ExecutorStates()[0].ready || !scheduler_->ExecutorStates()[1].ready);
  EXPECT_EQ(Stream(Request("hi")).text, "abcde");
}

TEST_F(ServiceTest, TroubleOfOneSequenceLeavesTheOthersAlone) {
  AddExecutor([](const std::vector<uint32_t>& prompt, uint32_t index) {
    if (prompt.back() == 'X' && index == 2) {
      return ScriptedToken{0, 0, absl::InvalidArgumentError("bad position")};
    }
    return Alphabet(5)(prompt, index);
  });
  StartController();
  auto good = StreamInBackground(Request("good"));
  const StreamOutcome bad = Stream(Request("X"));
  EXPECT_EQ(bad.status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ReasonOf(bad.status), "EXECUTOR_SEQUENCE_ERROR");
  EXPECT_THAT(std::string(bad.status.message()), HasSubstr("bad position"));
  EXPECT_EQ(bad.num_finished, 0);
  EXPECT_EQ(good.get().text, "abcde");
  EXPECT_TRUE(executors_[0]->WaitUntilIdle());
}

TEST_F(ServiceTest, AStalledExecutorIsGivenUp) {
  FakeExecutor& executor = AddExecutor(Alphabet(5));
  executor.HoldResults();
  options_.worker.step_timeout = absl::Milliseconds(100);
  options_.worker.max_losses = 1;
  StartController();
  auto answer = StreamInBackground(Request("hi"));
  ASSERT_EQ(answer.wait_for(kPatience), std::future_status::ready);
  const StreamOutcome outcome = answer.get();
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("has not answered step 1"));
}

TEST_F(ServiceTest, DrainLetsRunningRequestsFinishAndRefusesNewOnes) {
  FakeExecutor& executor = AddExecutor(Alphabet(5));
  executor.HoldResults();
  StartController();
  auto running = StreamInBackground(Request("hi"));
  ASSERT_TRUE(executor.WaitForSteps(1));
  auto drained = std::async(std::launch::async, [&] { scheduler_->Drain(absl::Now() + absl::Seconds(30)); });
  StreamOutcome refused;
  // Until the drain has begun, a request would wait for the held results: give it a deadline.
  do {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
    refused = Stream(Request("late"), context);
  } while (refused.status.code() == absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(refused.status), "SHUTTING_DOWN");
  executor.ResumeResults();
  EXPECT_EQ(running.get().text, "abcde");
  EXPECT_EQ(drained.wait_for(kPatience), std::future_status::ready);
}

TEST_F(ServiceTest, RequestsThatOutliveTheGraceEndWithUnavailable) {
  FakeExecutor& executor = AddExecutor(Alphabet(5));
  executor.HoldResults();
  StartController();
  auto running = StreamInBackground(Request("hi"));
  ASSERT_TRUE(executor.WaitForSteps(1));
  scheduler_->Drain(absl::Now() + absl::Milliseconds(10));
  scheduler_->Stop();
  ASSERT_EQ(running.wait_for(kPatience), std::future_status::ready);
  const absl::Status status = running.get().status;
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "SHUTTING_DOWN");
}

TEST_F(ServiceTest, StopInterruptsAConnectionInProgress) {
  // Nothing answers on this channel: a server that never comes up.
  targets_.push_back({"192.0.2.1:1", nullptr});
  options_.worker.connect_timeout = absl::Hours(1);
  StartController(1, /*wait_ready=*/false);
  auto stopped = std::async(std::launch::async, [&] { scheduler_->Stop(); });
  EXPECT_EQ(stopped.wait_for(kPatience), std::future_status::ready);
}

TEST_F(ServiceTest, ServerInfoDescribesModelAndExecutors) {
  AddExecutor(Alphabet(5));
  StartController();
  grpc::ClientContext context;
  v1::GetServerInfoResponse response;
  ASSERT_TRUE(v1::ModelService::NewStub(channel_)->GetServerInfo(&context, {}, &response).ok());
  const v1::ServerInfo& info = response.server_info();
  EXPECT_EQ(info.api_version(), "flexquant.v1");
  EXPECT_EQ(info.model(), "tiny");
  EXPECT_EQ(info.model_revision(), "revision");
  EXPECT_EQ(info.vocab_size(), kTestVocab);
  EXPECT_EQ(info.context_tokens(), 128U);
  EXPECT_EQ(info.precisions_size(), 5);
  EXPECT_FALSE(info.has_reference());
  ASSERT_EQ(info.layer_groups_size(), 9);
  EXPECT_EQ(info.layer_groups(0).name(), "layers.0.qkv");
  EXPECT_EQ(info.layer_groups(0).num_weights(), 128U * 64U);
  ASSERT_EQ(info.named_plans_size(), 5);
  EXPECT_EQ(info.named_plans(1).name(), "uniform-4");
  EXPECT_EQ(info.named_plans(1).mean_bits(), 4);
  ASSERT_EQ(info.executors_size(), 1);
  EXPECT_EQ(info.executors(0).address(), "fake-0");
  EXPECT_EQ(info.executors(0).instance_id(), "epoch-1");
  EXPECT_TRUE(info.executors(0).ready());
  EXPECT_EQ(info.max_batch_sequences(), 8U);
  EXPECT_EQ(info.running_requests() + info.waiting_requests(), 0U);
}

TEST_F(ServiceTest, ServerInfoSaysTheLoad) {
  testing::FakeExecutorOptions small;
  small.max_sequences = 1;
  testing::FakeExecutor& executor = AddExecutor(Alphabet(100), small);
  executor.HoldResults();
  StartController();
  const auto running = OpenStarted(Request("hello"));  // six tokens with the begin of sequence: two blocks
  auto waiting = StreamInBackground(Request("other", 1));
  const auto info = [&] {
    grpc::ClientContext context;
    v1::GetServerInfoResponse response;
    EXPECT_TRUE(v1::ModelService::NewStub(channel_)->GetServerInfo(&context, {}, &response).ok());
    return response.server_info();
  };
  const absl::Time deadline = absl::Now() + absl::FromChrono(kPatience);
  // A request waits, if shortly, before it runs.
  v1::ServerInfo loaded = info();
  while ((loaded.waiting_requests() != 1 || loaded.running_requests() != 1) && absl::Now() < deadline) {
    std::this_thread::yield();
    loaded = info();
  }
  EXPECT_EQ(loaded.waiting_requests(), 1U);
  EXPECT_EQ(loaded.running_requests(), 1U);
  EXPECT_EQ(loaded.executors(0).running_sequences(), 1U);
  EXPECT_GE(loaded.executors(0).kv_blocks_used(), 2U);
  executor.ResumeResults();
  EXPECT_TRUE(waiting.get().status.ok());
}

TEST_F(ServiceTest, TokenizeAndDetokenizeNeedNoExecutor) {
  targets_.push_back({"127.0.0.1:1", nullptr});
  StartController(1, /*wait_ready=*/false);
  v1::TokenizeRequest tokenize;
  tokenize.set_text("hi");
  v1::TokenizeResponse tokens;
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->Tokenize(&first, tokenize, &tokens).ok());
  EXPECT_EQ(tokens.token_ids_size(), 2);
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->Detokenize(&second, detokenize, &text).ok());
  EXPECT_EQ(text.text(), "hi");
}

}  // namespace
}  // namespace flexquant::controller
