// The whole server: health, ports, shutdown, an answer from a real (random) model.

#include "executor/server.h"

#include <memory>
#include <string>

#include "absl/synchronization/notification.h"
#include "flexquant/executor/v1/executor.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "tests/executor/fake_runner.h"
#include "tests/executor/test_model.h"

namespace flexquant::executor {
namespace {

using ::testing::HasSubstr;

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() : model_(TestModel::Random()) {
    options_.model_dir = model_->path();
    options_.num_threads = 1;
    options_.kv_cache_bytes = 1 << 20;
    options_.listen.address = "127.0.0.1:0";
  }

  std::unique_ptr<ExecutorServer> Create() {
    auto server = ExecutorServer::Create(options_);
    EXPECT_TRUE(server.ok()) << server.status();
    return *std::move(server);
  }

  std::unique_ptr<TestModel> model_;
  ExecutorOptions options_;
};

// grpc.health.v1's Check by hand, since Debian ships no generated code for it: "SERVING", "NOT_SERVING" or an error.
std::string Health(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  std::string request;
  if (!service.empty()) {
    request = std::string("\x0A") + static_cast<char>(service.size()) + service;
  }
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const grpc::Slice slice(request);
  const grpc::ByteBuffer buffer(&slice, 1);
  const auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", buffer, &queue);
  call->StartCall();
  grpc::ByteBuffer reply;
  grpc::Status status;
  call->Finish(&reply, &status, &queue);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok()) {
    return status.error_message();
  }
  grpc::Slice bytes;
  EXPECT_TRUE(reply.DumpToSingleSlice(&bytes).ok());
  EXPECT_EQ(bytes.size(), 2U);  // field 1, varint
  return bytes.begin()[1] == 1 ? "SERVING" : "NOT_SERVING";
}

TEST_F(ServerTest, HealthIsSaidByName) {
  const auto server = Create();
  const auto channel =
      grpc::CreateChannel("127.0.0.1:" + std::to_string(server->port()), grpc::InsecureChannelCredentials());
  for (const std::string name : {"", "liveness", "flexquant.executor.v1.ExecutorService"}) {
    EXPECT_EQ(Health(channel, name), "SERVING") << name;
  }
  EXPECT_THAT(Health(channel, "another"), HasSubstr("unknown"));
}

TEST_F(ServerTest, TakenPortIsAnErrorThatNamesIt) {
  const auto server = Create();
  options_.listen.address = "127.0.0.1:" + std::to_string(server->port());
  const auto second = ExecutorServer::Create(options_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(options_.listen.address));
}

TEST_F(ServerTest, BadOptionsAreErrors) {
  const auto code = [&](auto change) {
    ExecutorOptions options = options_;
    change(options);
    return ExecutorServer::Create(options).status().code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  for (const std::string listen : {"localhost", ":1", "localhost:", "localhost:x", "localhost:65536", "localhost:-1"}) {
    EXPECT_EQ(code([&](ExecutorOptions& o) { o.listen.address = listen; }), invalid) << listen;
  }
  EXPECT_EQ(code([](ExecutorOptions& o) { o.isa = "mmx"; }), invalid);
  EXPECT_EQ(code([](ExecutorOptions& o) { o.max_streams = 0; }), invalid);
  EXPECT_EQ(code([](ExecutorOptions& o) {
              o.device = "cuda";
              o.coarse_prompts = true;
            }),
            invalid);
  EXPECT_EQ(code([](ExecutorOptions& o) {
              o.device = "cuda";
              o.kv_cache_bits = 8;
            }),
            invalid);
  EXPECT_EQ(code([](ExecutorOptions& o) { o.kv_cache_bits = 4; }), invalid);
  EXPECT_EQ(code([](ExecutorOptions& o) { o.model_dir += "/absent"; }), absl::StatusCode::kNotFound);
  EXPECT_EQ(code([](ExecutorOptions& o) { o.kv_cache_bytes = uint64_t{1} << 46U; }),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(ServerTest, AMessageThatIsTooLargeEndsTheStream) {
  const auto server = Create();
  const auto stub = v1::ExecutorService::NewStub(
      grpc::CreateChannel("127.0.0.1:" + std::to_string(server->port()), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  const auto stream = stub->Execute(&context);
  v1::ExecuteRequest open;
  open.mutable_open()->set_expected_instance_id(std::string(16 << 20, 'x'));
  stream->Write(open);
  v1::ExecuteResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(ServerTest, AnswersInProcessAndShutsDownTwice) {
  options_.listen.address.clear();
  const auto server = Create();
  EXPECT_EQ(server->port(), 0);
  const auto stub = v1::ExecutorService::NewStub(server->InProcessChannel());
  grpc::ClientContext describe_context;
  v1::DescribeResponse description;
  ASSERT_TRUE(stub->Describe(&describe_context, v1::DescribeRequest(), &description).ok());
  EXPECT_EQ(description.model_revision(), model_->store().revision());
  EXPECT_THAT(description.precisions(), ::testing::ElementsAre(3, 4, 5, 6, 8, 16));

  grpc::ClientContext context;
  const auto stream = stub->Execute(&context);
  v1::ExecuteRequest open;
  auto* plan = open.mutable_open()->mutable_plans()->add_plans();
  plan->set_bits(std::string(static_cast<size_t>(model_->store().num_layer_groups()), 8));
  ASSERT_TRUE(stream->Write(open));
  v1::ExecuteResponse response;
  ASSERT_TRUE(stream->Read(&response));
  const std::vector<uint32_t> tokens = model_->Tokens(5);
  v1::ExecuteRequest request;
  request.mutable_step()->set_step_id(1);
  auto* sequence = request.mutable_step()->add_sequences();
  sequence->mutable_start()->mutable_sampling()->set_top_p(1);
  sequence->mutable_start()->mutable_sampling()->set_repetition_penalty(1);
  sequence->mutable_start()->set_full_logits(true);
  sequence->mutable_token_ids()->Add(tokens.begin(), tokens.end());
  sequence->add_new_kv_blocks(0);
  sequence->set_sample(true);
  ASSERT_TRUE(stream->Write(request));
  ASSERT_TRUE(stream->Read(&response));
  ASSERT_EQ(response.result().sequences(0).code(), 0) << response.result().sequences(0).message();

  const auto runner = MakeRunner(model_->store(), SmallOptions(model_->store()));
  const auto logits = AllLogits(*runner, tokens, model_->Uniform(8), Blocks(0, 2), {5});
  const std::vector<float> last(logits.end() - 100, logits.end());
  EXPECT_EQ(response.result().sequences(0).full_logits(),
            std::string(reinterpret_cast<const char*>(last.data()), last.size() * sizeof(float)));

  // The sequence lives: the stream is cancelled once the grace is over.
  server->Shutdown(absl::Milliseconds(10));
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_FALSE(stream->Finish().ok());
  server->Shutdown(absl::Seconds(100));
}

// A server over a runner that can be made to fail or hang.
class FailureTest : public ServerTest {
 protected:
  FailureTest() {
    options_.step_timeout = absl::Milliseconds(200);
    options_.on_failure = [this](const absl::Status& status) {
      failure_ = status;
      failed_.Notify();
    };
    auto runner = std::make_unique<FakeRunner>();
    runner_ = runner.get();
    auto store = ModelStore::Open(model_->path());
    EXPECT_TRUE(store.ok()) << store.status();
    auto server = ExecutorServer::Serve(*std::move(store), std::move(runner), options_);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  void ExpectNotServing() {
    const auto channel = server_->InProcessChannel();
    for (const std::string name : {"", "liveness", "flexquant.executor.v1.ExecutorService"}) {
      EXPECT_EQ(Health(channel, name), "NOT_SERVING") << name;
    }
  }

  FakeRunner* runner_ = nullptr;
  absl::Status failure_;
  absl::Notification failed_;
  std::unique_ptr<ExecutorServer> server_;
};

TEST_F(FailureTest, AFailedBackendIsReportedOnceAndNotServing) {
  EXPECT_EQ(Health(server_->InProcessChannel(), "liveness"), "SERVING");
  runner_->Fail(absl::InternalError("the device fell off the bus"));
  failed_.WaitForNotification();
  EXPECT_THAT(std::string(failure_.message()), HasSubstr("fell off the bus"));
  ExpectNotServing();
}

TEST_F(FailureTest, AHangingStepIsReportedAndNotServing) {
  const auto stub = v1::ExecutorService::NewStub(server_->InProcessChannel());
  grpc::ClientContext context;
  const auto stream = stub->Execute(&context);
  v1::ExecuteRequest request;
  request.mutable_open()->mutable_plans()->add_plans()->set_bits(std::string(5, 8));
  ASSERT_TRUE(stream->Write(request));
  v1::ExecuteResponse response;
  ASSERT_TRUE(stream->Read(&response));
  runner_->Hold();
  request.Clear();
  request.mutable_step()->set_step_id(1);
  auto* sequence = request.mutable_step()->add_sequences();
  sequence->mutable_start()->mutable_sampling()->set_top_p(1);
  sequence->mutable_start()->mutable_sampling()->set_repetition_penalty(1);
  sequence->add_token_ids(1);
  sequence->add_new_kv_blocks(0);
  ASSERT_TRUE(stream->Write(request));
  runner_->WaitForSteps(1);
  failed_.WaitForNotification();
  EXPECT_EQ(failure_.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(failure_.message()), HasSubstr("200ms"));
  ExpectNotServing();
  runner_->Resume();
  EXPECT_TRUE(stream->Read(&response));
}

}  // namespace
}  // namespace flexquant::executor
