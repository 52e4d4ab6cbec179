#ifndef FLEXQUANT_TESTS_CONTROLLER_SERVICE_FIXTURE_H_
#define FLEXQUANT_TESTS_CONTROLLER_SERVICE_FIXTURE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "controller/inference_service.h"
#include "controller/model_service.h"
#include "controller/scheduler.h"
#include "grpcpp/server_builder.h"
#include "proto/grpc_status.h"
#include "tests/controller/status_test_util.h"
#include "tests/controller/test_model.h"
#include "tests/testing/fake_executor.h"

namespace flexquant::controller {

// Everything one stream sent.
struct StreamOutcome {
  std::vector<v1::GenerateStreamResponse> events;
  std::string text;
  std::vector<uint32_t> token_ids;
  std::vector<v1::TokenInfo> tokens;
  v1::GenerationStarted started;
  v1::GenerationFinished finished;
  int num_started = 0;
  int num_finished = 0;
  absl::Status status;
};

// A stream that is read step by step; cancelled when destroyed before its end.
struct LiveStream {
  ~LiveStream() { context.TryCancel(); }

  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>> reader;
  StreamOutcome outcome;
};

// Answers 'a', 'b', 'c', ... whatever the prompt, then end-of-sequence after `length` letters.
inline testing::FakeExecutor::Script Alphabet(uint32_t length) {
  return [length](const std::vector<uint32_t>& /*prompt*/, uint32_t index) {
    return testing::ScriptedToken{index < length ? 'a' + index % 26 : kEos, 0.0F, {}};
  };
}

// Answers the bytes of `text`, then end-of-sequence.
inline testing::FakeExecutor::Script Saying(const std::string& text) {
  return [text](const std::vector<uint32_t>& /*prompt*/, uint32_t index) {
    return testing::ScriptedToken{index < text.size() ? static_cast<unsigned char>(text[index]) : kEos, 0.0F, {}};
  };
}

// The controller's services over fake executors, all in this process.
class ServiceTest : public ::testing::Test {
 protected:
  ~ServiceTest() override { StopController(); }

  testing::FakeExecutor& AddExecutor(testing::FakeExecutor::Script script,
                                     const testing::FakeExecutorOptions& options = {}) {
    executors_.push_back(std::make_unique<testing::FakeExecutor>(options, std::move(script)));
    return *executors_.back();
  }

  void StartController(int lookahead = 1, bool wait_ready = true) {
    options_.worker.lookahead = lookahead;
    options_.worker.min_backoff = absl::Milliseconds(1);
    options_.worker.max_backoff = absl::Milliseconds(10);
    for (size_t i = 0; i < executors_.size(); ++i) {
      targets_.push_back({absl::StrCat("fake-", i), executors_[i]->channel()});
    }
    scheduler_ = std::make_unique<Scheduler>(options_, ExpectedModel{"revision", 9, model_.policies.has_reference},
                                             *model_.tokenizer, *model_.layer_groups, [](bool) {});
    scheduler_->SetExecutors(targets_, absl::OkStatus());
    inference_ = std::make_unique<InferenceService>(model_, *scheduler_, access_, *metrics_);
    info_ = std::make_unique<ModelService>(model_, *scheduler_, "instance");
    grpc::ServerBuilder builder;
    builder.RegisterService(inference_.get());
    builder.RegisterService(info_.get());
    server_ = builder.BuildAndStart();
    channel_ = server_->InProcessChannel(grpc::ChannelArguments());
    stub_ = v1::InferenceService::NewStub(channel_);
    if (wait_ready) {
      ASSERT_TRUE(scheduler_->WaitReady(absl::Seconds(30)).ok());
    }
  }

  void StopController() {
    if (scheduler_ != nullptr) {
      scheduler_->Stop();
      server_->Shutdown();
      server_->Wait();
    }
  }

  static v1::GenerateRequest Request(const std::string& text, uint32_t max_tokens = 100) {
    v1::GenerateRequest request;
    request.set_text(text);
    request.mutable_stop()->set_max_tokens(max_tokens);
    return request;
  }

  StreamOutcome Stream(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    return Stream(request, context);
  }

  StreamOutcome Stream(const v1::GenerateRequest& request, grpc::ClientContext& context) {
    v1::GenerateStreamRequest stream_request;
    *stream_request.mutable_request() = request;
    const auto reader = stub_->GenerateStream(&context, stream_request);
    StreamOutcome outcome;
    v1::GenerateStreamResponse event;
    while (reader->Read(&event)) {
      Take(event, outcome);
    }
    outcome.status = FromGrpcStatus(reader->Finish());
    return outcome;
  }

  // Opens a stream and waits until an executor's worker has taken the request.
  std::unique_ptr<LiveStream> OpenStarted(const v1::GenerateRequest& request) {
    auto live = std::make_unique<LiveStream>();
    v1::GenerateStreamRequest stream_request;
    *stream_request.mutable_request() = request;
    live->reader = stub_->GenerateStream(&live->context, stream_request);
    v1::GenerateStreamResponse event;
    EXPECT_TRUE(live->reader->Read(&event) && event.has_started());
    Take(event, live->outcome);
    return live;
  }

  // Reads it to its end.
  static StreamOutcome Rest(LiveStream& live) {
    v1::GenerateStreamResponse event;
    while (live.reader->Read(&event)) {
      Take(event, live.outcome);
    }
    live.outcome.status = FromGrpcStatus(live.reader->Finish());
    return live.outcome;
  }

  std::future<StreamOutcome> StreamInBackground(const v1::GenerateRequest& request) {
    return std::async(std::launch::async, [this, request] { return Stream(request); });
  }

  // Nothing the controller sent broke the executor's protocol.
  void ExpectNoViolations() const {
    for (const auto& executor : executors_) {
      EXPECT_EQ(executor->violations(), std::vector<std::string>());
    }
  }

  ModelPackage model_ = TestModel();
  SchedulerOptions options_;
  std::vector<ExecutorTarget> targets_;
  std::vector<std::unique_ptr<testing::FakeExecutor>> executors_;
  std::unique_ptr<Scheduler> scheduler_;
  AccessControl access_;
  std::unique_ptr<Metrics> metrics_ = Metrics::Silent();
  std::unique_ptr<InferenceService> inference_;
  std::unique_ptr<ModelService> info_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;

 private:
  static void Take(const v1::GenerateStreamResponse& event, StreamOutcome& outcome) {
    outcome.events.push_back(event);
    if (event.has_started()) {
      outcome.started = event.started();
      ++outcome.num_started;
    } else if (event.has_delta()) {
      outcome.text += event.delta().text();
      outcome.token_ids.insert(outcome.token_ids.end(), event.delta().token_ids().begin(),
                               event.delta().token_ids().end());
      outcome.tokens.insert(outcome.tokens.end(), event.delta().tokens().begin(), event.delta().tokens().end());
    } else if (event.has_finished()) {
      outcome.finished = event.finished();
      ++outcome.num_finished;
    }
  }
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_TESTS_CONTROLLER_SERVICE_FIXTURE_H_
