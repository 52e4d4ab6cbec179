// The gRPC service over in-process channels, and the whole server.

#include "executor/service.h"

#include <memory>
#include <string>
#include <thread>

#include "executor/server.h"
#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "proto/grpc_status.h"
#include "tests/executor/fake_runner.h"
#include "tests/executor/test_model.h"

namespace flexquant::executor {
namespace {

using ::testing::HasSubstr;

// The controller's end of a stream.
class Client {
 public:
  explicit Client(v1::ExecutorService::Stub& stub) : stream_(stub.Execute(&context_)) {}

  bool Open(const std::string& epoch = "", const std::string& controller = "") {
    v1::ExecuteRequest request;
    request.mutable_open()->set_expected_instance_id(epoch);
    request.mutable_open()->set_controller_id(controller);
    auto* plan = request.mutable_open()->mutable_plans()->add_plans();
    plan->set_bits(std::string(5, 8));
    return stream_->Write(request) && stream_->Read(&response_) && response_.has_opened();
  }

  bool SendStep(uint64_t step_id, uint64_t sequence_id, uint32_t position, bool start) {
    v1::ExecuteRequest request;
    request.mutable_step()->set_step_id(step_id);
    auto* sequence = request.mutable_step()->add_sequences();
    sequence->set_sequence_id(sequence_id);
    sequence->set_position(position);
    sequence->set_sample(true);
    if (start) {
      sequence->mutable_start()->mutable_sampling()->set_top_p(1);
      sequence->mutable_start()->mutable_sampling()->set_repetition_penalty(1);
      sequence->mutable_start()->set_prompt_tokens(1);
      sequence->add_token_ids(3);
    }
    if (position % 4 == 0) {
      sequence->add_new_kv_blocks(position / 4);
    }
    return stream_->Write(request);
  }

  bool Release(uint64_t sequence_id) {
    v1::ExecuteRequest request;
    request.mutable_release()->add_sequence_ids(sequence_id);
    return stream_->Write(request);
  }

  bool Read() { return stream_->Read(&response_); }
  const v1::ExecuteResponse& response() const { return response_; }
  const v1::StepResult& result() const { return response_.result(); }
  void HalfClose() { stream_->WritesDone(); }
  void Cancel() { context_.TryCancel(); }
  // Reads to the end.
  grpc::Status Finish() {
    while (stream_->Read(&response_)) {
    }
    return stream_->Finish();
  }
  grpc::ClientReaderWriter<v1::ExecuteRequest, v1::ExecuteResponse>& stream() { return *stream_; }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::ExecuteRequest, v1::ExecuteResponse>> stream_;
  v1::ExecuteResponse response_;
};

// Over an in-process channel (false) or a real port (true).
class ServiceTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    service_ = std::make_unique<ExecutorService>(engine_, ServiceOptions{"revision", 3});
    grpc::ServerBuilder builder;
    builder.RegisterService(service_.get());
    int port = 0;
    if (GetParam()) {
      builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    }
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    grpc::ChannelArguments args;
    stub_ = v1::ExecutorService::NewStub(
        GetParam() ? grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials())
                   : server_->InProcessChannel(args));
  }

  void TearDown() override {
    runner_.Resume();
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    service_.reset();
  }

  v1::DescribeResponse Describe() {
    grpc::ClientContext context;
    v1::DescribeResponse response;
    EXPECT_TRUE(stub_->Describe(&context, v1::DescribeRequest(), &response).ok());
    return response;
  }

  FakeRunner runner_;
  Engine engine_{runner_};
  std::unique_ptr<ExecutorService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::ExecutorService::Stub> stub_;
};

INSTANTIATE_TEST_SUITE_P(Channels, ServiceTest, ::testing::Bool(),
                         [](const auto& param) { return param.param ? "Port" : "InProcess"; });

TEST_P(ServiceTest, DescribesItself) {
  const v1::DescribeResponse response = Describe();
  EXPECT_EQ(response.instance_id(), engine_.instance_id());
  EXPECT_EQ(response.version(), FLEXQUANT_VERSION);
  EXPECT_EQ(response.device(), "fake");
  EXPECT_EQ(response.model_revision(), "revision");
  EXPECT_EQ(response.num_layer_groups(), 5U);
  EXPECT_THAT(response.precisions(), ::testing::ElementsAre(3, 4, 5, 6, 8));
  EXPECT_EQ(response.num_kv_blocks(), 8U);
  EXPECT_EQ(response.kv_block_tokens(), 4U);
  EXPECT_EQ(response.max_sequences(), 3U);
  EXPECT_EQ(response.max_step_tokens(), 12U);
  EXPECT_EQ(response.max_streams(), 3U);
  EXPECT_FALSE(response.coarse_prompts());
  EXPECT_EQ(response.kv_cache_bits(), 16U);
  EXPECT_EQ(response.steps_done(), 0U);
}

TEST_P(ServiceTest, RunsStepsInOrderToHalfClose) {
  Client client(*stub_);
  ASSERT_TRUE(client.Open(engine_.instance_id()));
  // All sent before any result is read: the executor feeds itself what it samples. (The bound of what it reads ahead is
  // a little higher; a peer that writes on and on without reading is held back.)
  constexpr uint32_t kSteps = 12;
  for (uint32_t step = 1; step <= kSteps; ++step) {
    ASSERT_TRUE(client.SendStep(step, 1, step - 1, step == 1));
  }
  client.HalfClose();
  for (uint32_t step = 1; step <= kSteps; ++step) {
    ASSERT_TRUE(client.Read());
    EXPECT_EQ(client.result().step_id(), step);
    EXPECT_EQ(client.result().sequences(0).token().id(), (3 + step) % 10);
  }
  const grpc::Status status = client.Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(Describe().steps_done(), kSteps);
}

TEST_P(ServiceTest, WrongEpochIsAborted) {
  Client client(*stub_);
  EXPECT_FALSE(client.Open("an older one"));
  EXPECT_EQ(client.Finish().error_code(), grpc::StatusCode::ABORTED);
}

TEST_P(ServiceTest, IllegalMessageEndsTheStreamWhileItsPeerMaySendMore) {
  Client client(*stub_);
  ASSERT_TRUE(client.Open());
  ASSERT_TRUE(client.SendStep(5, 1, 0, true));
  const grpc::Status status = client.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("expected 1"));
  EXPECT_TRUE(service_->WaitForStreams(absl::Seconds(60)));
}

TEST_P(ServiceTest, ReleaseTakesEffectAfterEarlierSteps) {
  Client client(*stub_);
  ASSERT_TRUE(client.Open());
  ASSERT_TRUE(client.SendStep(1, 1, 0, true));
  ASSERT_TRUE(client.Release(1));
  ASSERT_TRUE(client.SendStep(2, 1, 1, false));
  ASSERT_TRUE(client.Read());
  EXPECT_EQ(client.result().sequences(0).code(), 0);
  ASSERT_TRUE(client.Read());
  EXPECT_EQ(client.result().sequences(0).code(), static_cast<int>(grpc::StatusCode::NOT_FOUND));
  client.HalfClose();
  EXPECT_TRUE(client.Finish().ok());
}

TEST_P(ServiceTest, StreamsHaveTheirOwnSequencesAndSteps) {
  Client a(*stub_);
  Client b(*stub_);
  ASSERT_TRUE(a.Open());
  ASSERT_TRUE(b.Open());
  for (uint32_t step = 1; step <= 10; ++step) {
    ASSERT_TRUE(a.SendStep(step, 1, step - 1, step == 1));
    ASSERT_TRUE(b.SendStep(step, 1, step - 1, step == 1));
  }
  for (uint32_t step = 1; step <= 10; ++step) {
    for (Client* client : {&a, &b}) {
      ASSERT_TRUE(client->Read());
      EXPECT_EQ(client->result().step_id(), step);
      EXPECT_EQ(client->result().sequences(0).token().id(), (3 + step) % 10);
    }
  }
  a.HalfClose();
  EXPECT_TRUE(a.Finish().ok());
  b.HalfClose();
  EXPECT_TRUE(b.Finish().ok());
  EXPECT_EQ(Describe().steps_done(), 20U);
}

TEST_P(ServiceTest, StreamsBeyondTheLimitAreRefused) {
  Client a(*stub_);
  Client b(*stub_);
  Client c(*stub_);
  ASSERT_TRUE(a.Open());
  ASSERT_TRUE(b.Open());
  ASSERT_TRUE(c.Open());
  Client d(*stub_);
  EXPECT_FALSE(d.Open());
  EXPECT_EQ(d.Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  for (Client* client : {&a, &b, &c}) {
    client->HalfClose();
    EXPECT_TRUE(client->Finish().ok());
  }
  ASSERT_TRUE(service_->WaitForStreams(absl::Seconds(60)));
  Client e(*stub_);
  EXPECT_TRUE(e.Open());
}

TEST_P(ServiceTest, CancelledStreamStopsBetweenSteps) {
  Client client(*stub_);
  ASSERT_TRUE(client.Open());
  runner_.Hold();
  for (uint32_t step = 1; step <= 10; ++step) {
    ASSERT_TRUE(client.SendStep(step, 1, step - 1, step == 1));
  }
  runner_.WaitForSteps(1);
  client.Cancel();
  EXPECT_EQ(client.Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_FALSE(service_->WaitForStreams(absl::Milliseconds(1)));
  // Cancellation reaches the server on threads of gRPC's own, on a busy machine after some more steps.
  bool ended = false;
  for (int step = 1; step < 10 && !ended; ++step) {
    runner_.LetThrough();
    ended = service_->WaitForStreams(absl::Milliseconds(500));
  }
  EXPECT_TRUE(ended);
  EXPECT_LT(engine_.steps_done(), 10U);
  runner_.Resume();
}

TEST_P(ServiceTest, DescribeAnswersWhileAStepRuns) {
  Client client(*stub_);
  ASSERT_TRUE(client.Open());
  runner_.Hold();
  ASSERT_TRUE(client.SendStep(1, 1, 0, true));
  runner_.WaitForSteps(1);
  EXPECT_EQ(Describe().steps_done(), 0U);
  runner_.Resume();
  ASSERT_TRUE(client.Read());
  EXPECT_EQ(Describe().steps_done(), 1U);
}

TEST_P(ServiceTest, PeerThatDoesNotReadStopsNobodyElse) {
  // Logits of 2 MB a result fill any flow-control window.
  runner_.mutable_info().vocab_size = 1 << 19;
  runner_.mutable_info().max_context = 4096;
  Client slow(*stub_);
  ASSERT_TRUE(slow.Open());
  std::thread writer([&] {
    for (uint32_t step = 1; step <= 200; ++step) {
      v1::ExecuteRequest request;
      request.mutable_step()->set_step_id(step);
      auto* sequence = request.mutable_step()->add_sequences();
      sequence->set_sequence_id(step);
      sequence->add_token_ids(1);
      sequence->add_new_kv_blocks(0);
      sequence->set_sample(true);
      auto* start = sequence->mutable_start();
      start->mutable_sampling()->set_top_p(1);
      start->mutable_sampling()->set_repetition_penalty(1);
      start->set_full_logits(true);
      if (!slow.stream().Write(request)) {
        return;
      }
    }
  });
  runner_.WaitForSteps(1);
  Client quick(*stub_);
  ASSERT_TRUE(quick.Open());
  for (uint32_t step = 1; step <= 20; ++step) {
    ASSERT_TRUE(quick.SendStep(step, 1, step - 1, step == 1));
    ASSERT_TRUE(quick.Read());
    EXPECT_EQ(quick.result().step_id(), step);
  }
  slow.Cancel();
  writer.join();
  EXPECT_EQ(slow.Finish().error_code(), grpc::StatusCode::CANCELLED);
  quick.HalfClose();
  EXPECT_TRUE(quick.Finish().ok());
  EXPECT_TRUE(service_->WaitForStreams(absl::Seconds(60)));
}

TEST_P(ServiceTest, OneControllerAtATime) {
  Client first(*stub_);
  ASSERT_TRUE(first.Open("", "one"));
  Client again(*stub_);  // the same, whose first stream is perhaps not known to be lost yet
  ASSERT_TRUE(again.Open("", "one"));
  Client other(*stub_);
  EXPECT_FALSE(other.Open("", "other"));
  const grpc::Status refused = other.Finish();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ErrorReason(FromGrpcStatus(refused)), "OTHER_CONTROLLER");
  for (Client* client : {&first, &again}) {
    client->HalfClose();
    EXPECT_TRUE(client->Finish().ok());
  }
  ASSERT_TRUE(service_->WaitForStreams(absl::Seconds(60)));
  Client later(*stub_);
  EXPECT_TRUE(later.Open("", "other"));
  later.HalfClose();
  EXPECT_TRUE(later.Finish().ok());
}

TEST_P(ServiceTest, DrainEndsIdleStreamsAndLetsSequencesEnd) {
  Client idle(*stub_);
  Client busy(*stub_);
  ASSERT_TRUE(idle.Open());
  ASSERT_TRUE(busy.Open());
  ASSERT_TRUE(busy.SendStep(1, 1, 0, true));
  ASSERT_TRUE(busy.Read());
  service_->Drain();
  ASSERT_TRUE(idle.Read());
  EXPECT_TRUE(idle.response().has_draining());
  EXPECT_EQ(idle.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  ASSERT_TRUE(busy.Read());
  EXPECT_TRUE(busy.response().has_draining());
  Client late(*stub_);
  EXPECT_FALSE(late.Open());
  EXPECT_EQ(late.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  ASSERT_TRUE(busy.SendStep(2, 1, 1, false));
  ASSERT_TRUE(busy.Read());
  EXPECT_EQ(busy.result().sequences(0).token().id(), 5U);
  ASSERT_TRUE(busy.Release(1));
  EXPECT_EQ(busy.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(service_->WaitForStreams(absl::Seconds(60)));
}

}  // namespace
}  // namespace flexquant::executor
