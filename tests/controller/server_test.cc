#include "controller/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controller/model_package.h"
#include "flexquant/v1/inference.grpc.pb.h"
#include "flexquant/v1/model.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/security/credentials.h"
#include "proto/grpc_status.h"
#include "tests/controller/package_folder.h"
#include "tests/testing/fake_executor.h"
#include "transport/keepalive.h"

namespace flexquant::controller {
namespace {

using ::testing::HasSubstr;

// Wire format of grpc.health.v1: the request's only field is the service's name, the response's the state.
constexpr int kServing = 1;
constexpr int kNotServing = 2;

int HealthOf(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  std::string request;
  if (!service.empty()) {
    request = std::string("\x0A") + static_cast<char>(service.size()) + service;
  }
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  const grpc::Slice slice(request);
  const grpc::ByteBuffer request_buffer(&slice, 1);
  grpc::ByteBuffer response;
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request_buffer, &response,
                 [&](const grpc::Status& status) { done.set_value(status); });
  if (!done.get_future().get().ok()) {
    return -1;
  }
  std::vector<grpc::Slice> slices;
  response.Dump(&slices);
  return slices.empty() || slices[0].size() < 2 ? 0 : slices[0].begin()[1];
}

// Whether the server knows a method of this name (an unknown one is UNIMPLEMENTED).
bool HasReflection(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  const grpc::Slice empty("");
  const grpc::ByteBuffer request(&empty, 1);
  grpc::ByteBuffer response;
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", grpc::StubOptions(),
                 &request, &response, [&](const grpc::Status& status) { done.set_value(status); });
  return done.get_future().get().error_code() != grpc::StatusCode::UNIMPLEMENTED;
}

class ControllerServerTest : public ::testing::Test {
 protected:
  ControllerServerTest() {
    testing::FakeExecutorOptions options;
    options.model_revision = kPackageChecksum;
    executor_ = std::make_unique<testing::FakeExecutor>(options, [](const std::vector<uint32_t>&, uint32_t index) {
      return testing::ScriptedToken{index < 5 ? 'a' + index : kEos, 0.0F, {}};
    });
    options_.model_dir = folder_.path();
    options_.listen.address = "127.0.0.1:0";
    options_.executors = {{"fake", executor_->channel()}};
  }

  std::unique_ptr<ControllerServer> Start() {
    auto server = ControllerServer::Create(options_);
    EXPECT_TRUE(server.ok()) << server.status();
    return server.ok() ? *std::move(server) : nullptr;
  }

  static std::shared_ptr<grpc::Channel> Connect(const ControllerServer& server) {
    return grpc::CreateChannel(absl::StrCat("127.0.0.1:", server.port()), grpc::InsecureChannelCredentials());
  }

  static grpc::Status Generate(const std::shared_ptr<grpc::Channel>& channel, v1::GenerateResponse* response) {
    grpc::ClientContext context;
    v1::GenerateRequest request;
    request.set_text("hi");
    return v1::InferenceService::NewStub(channel)->Generate(&context, request, response);
  }

  PackageFolder folder_;
  std::unique_ptr<testing::FakeExecutor> executor_;
  ControllerOptions options_;
};

TEST_F(ControllerServerTest, ServesOverTcpAndInProcess) {
  const auto server = Start();
  ASSERT_NE(server, nullptr);
  ASSERT_GT(server->port(), 0);
  ASSERT_TRUE(server->WaitReady(absl::Seconds(30)).ok());
  for (const auto& channel : {Connect(*server), server->InProcessChannel()}) {
    v1::GenerateResponse response;
    const grpc::Status status = Generate(channel, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.text(), "abcde");
    EXPECT_EQ(response.started().model_revision(), kPackageChecksum);
  }
  EXPECT_EQ(executor_->violations(), std::vector<std::string>());
}

// A prefill sends nothing for a long time; clients that ask every few seconds whether the server lives keep their call.
TEST_F(ControllerServerTest, PingsDuringALongPrefillEndItsCallOnlyIfTheyFlood) {
  const auto server = Start();
  ASSERT_NE(server, nullptr);
  ASSERT_TRUE(server->WaitReady(absl::Seconds(30)).ok());
  executor_->HoldResults();
  // gRPC ends a connection at the third ping that comes too early.
  const auto generate = [&](absl::Duration ping_interval) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(absl::ToInt64Milliseconds(ping_interval)));
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    v1::GenerateResponse response;
    return Generate(grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server->port()),
                                              grpc::InsecureChannelCredentials(), arguments),
                    &response);
  };
  const absl::Duration allowed = transport::kMinPingInterval + absl::Milliseconds(200);
  const auto enough = std::chrono::steady_clock::now() + absl::ToChronoSeconds(4 * allowed);
  auto patient = std::async(std::launch::async, generate, allowed);
  auto flooding = std::async(std::launch::async, generate, absl::Seconds(1));
  const grpc::Status flooded = flooding.get();
  EXPECT_EQ(flooded.error_code(), grpc::StatusCode::UNAVAILABLE) << flooded.error_message();
  EXPECT_EQ(patient.wait_until(enough), std::future_status::timeout);
  executor_->ResumeResults();
  const grpc::Status status = patient.get();
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(ControllerServerTest, InProcessOnly) {
  options_.listen.address.clear();
  const auto server = Start();
  ASSERT_NE(server, nullptr);
  EXPECT_EQ(server->port(), 0);
  ASSERT_TRUE(server->WaitReady(absl::Seconds(30)).ok());
  v1::GenerateResponse response;
  EXPECT_TRUE(Generate(server->InProcessChannel(), &response).ok());
}

TEST_F(ControllerServerTest, ATakenPortIsAClearError) {
  const auto first = Start();
  ASSERT_NE(first, nullptr);
  options_.listen.address = absl::StrCat("127.0.0.1:", first->port());
  const absl::Status status = ControllerServer::Create(options_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(options_.listen.address));
}

TEST_F(ControllerServerTest, AnImpossibleAddressIsAClearError) {
  options_.listen.address = "not an address";
  EXPECT_EQ(ControllerServer::Create(options_).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ControllerServerTest, BadOptionsAreNamed) {
  const auto code = [&] { return ControllerServer::Create(options_).status().code(); };
  ControllerOptions good = options_;
  options_.executors.clear();
  EXPECT_EQ(code(), absl::StatusCode::kInvalidArgument);
  options_ = good;
  options_.lookahead = 2;
  EXPECT_EQ(code(), absl::StatusCode::kInvalidArgument);
  options_ = good;
  options_.max_queued_requests = 0;
  EXPECT_EQ(code(), absl::StatusCode::kInvalidArgument);
  options_ = good;
  options_.prefill_chunk_tokens = 0;
  EXPECT_EQ(code(), absl::StatusCode::kInvalidArgument);
  options_ = good;
  options_.executors.push_back({"", nullptr});
  EXPECT_EQ(code(), absl::StatusCode::kInvalidArgument);
  options_ = good;
  options_.executors.push_back({"dns:no-port", nullptr});
  EXPECT_EQ(code(), absl::StatusCode::kInvalidArgument);
  options_ = good;
  options_.resolve_interval = absl::ZeroDuration();
  EXPECT_EQ(code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ControllerServerTest, HealthFollowsTheExecutor) {
  executor_->Die();
  const auto server = Start();
  ASSERT_NE(server, nullptr);
  const auto channel = Connect(*server);
  const std::vector<std::string> names = {"", "flexquant.v1.InferenceService", "flexquant.v1.ModelService"};
  for (const std::string& name : names) {
    EXPECT_EQ(HealthOf(channel, name), kNotServing) << name;
  }
  EXPECT_EQ(HealthOf(channel, "liveness"), kServing);
  EXPECT_EQ(HealthOf(channel, "unknown"), -1);
  executor_->Restart("epoch-2");
  ASSERT_TRUE(server->WaitReady(absl::Seconds(30)).ok());
  for (const std::string& name : names) {
    EXPECT_EQ(HealthOf(channel, name), kServing) << name;
  }
}

TEST_F(ControllerServerTest, DrainingServerIsAliveButNotReady) {
  const auto server = Start();
  ASSERT_NE(server, nullptr);
  ASSERT_TRUE(server->WaitReady(absl::Seconds(30)).ok());
  executor_->HoldResults();
  const auto channel = Connect(*server);
  v1::GenerateResponse response;
  auto running = std::async(std::launch::async, [&] { return Generate(channel, &response); });
  ASSERT_TRUE(executor_->WaitForSteps(1));
  auto shutdown = std::async(std::launch::async, [&] { server->Shutdown(absl::Seconds(30)); });
  while (HealthOf(channel, "flexquant.v1.InferenceService") == kServing) {
  }
  EXPECT_EQ(HealthOf(channel, "flexquant.v1.InferenceService"), kNotServing);
  EXPECT_EQ(HealthOf(channel, "liveness"), kServing);
  v1::GenerateResponse refused;
  EXPECT_EQ(Generate(channel, &refused).error_code(), grpc::StatusCode::UNAVAILABLE);
  executor_->ResumeResults();
  EXPECT_TRUE(running.get().ok());
  EXPECT_EQ(response.text(), "abcde");
  EXPECT_EQ(shutdown.wait_for(std::chrono::seconds(30)), std::future_status::ready);
  server->Shutdown(absl::Seconds(1));
}

TEST_F(ControllerServerTest, ShutdownEndsWhatOutlivesTheGrace) {
  const auto server = Start();
  ASSERT_NE(server, nullptr);
  ASSERT_TRUE(server->WaitReady(absl::Seconds(30)).ok());
  executor_->HoldResults();
  v1::GenerateResponse response;
  auto running = std::async(std::launch::async, [&] { return Generate(Connect(*server), &response); });
  ASSERT_TRUE(executor_->WaitForSteps(1));
  server->Shutdown(absl::Milliseconds(10));
  EXPECT_EQ(running.get().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ControllerServerTest, ReflectionCanBeTurnedOff) {
  const auto with = Start();
  options_.reflection = false;
  const auto without = Start();
  ASSERT_TRUE(with != nullptr && without != nullptr);
  EXPECT_TRUE(HasReflection(with->InProcessChannel()));
  EXPECT_FALSE(HasReflection(without->InProcessChannel()));
}

TEST_F(ControllerServerTest, ARequestThatIsTooLargeIsRefused) {
  const auto server = Start();
  ASSERT_NE(server, nullptr);
  v1::GenerateRequest request;
  request.set_text(std::string(16 << 20, 'x'));
  for (const auto& channel : {Connect(*server), server->InProcessChannel()}) {
    grpc::ClientContext context;
    v1::GenerateResponse response;
    EXPECT_EQ(v1::InferenceService::NewStub(channel)->Generate(&context, request, &response).error_code(),
              grpc::StatusCode::RESOURCE_EXHAUSTED);
  }
}

TEST(LoadModelPackageTest, ReadsEverythingButTheWeights) {
  const PackageFolder folder;
  const auto package = LoadModelPackage(folder.path());
  ASSERT_TRUE(package.ok()) << package.status();
  EXPECT_EQ(package->name, "tiny");
  EXPECT_EQ(package->revision, kPackageChecksum);
  EXPECT_EQ(package->layer_groups->count(), 9);
  EXPECT_EQ(package->tokenizer->vocab_size(), kTestVocab);
  EXPECT_FALSE(package->policies.has_reference);
  EXPECT_EQ(package->chat_template, nullptr);
  EXPECT_FALSE(package->chat_template_status.ok());
}

TEST(LoadModelPackageTest, ErrorsNameTheFile) {
  const absl::Status absent = LoadModelPackage("/nonexistent/model").status();
  EXPECT_EQ(absent.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(absent.message()), HasSubstr("/nonexistent/model"));
  for (const std::string name : {"flexquant.json", "config.json", "tokenizer.json"}) {
    const PackageFolder broken;
    broken.Write(name, "{");
    const absl::Status status = LoadModelPackage(broken.path()).status();
    EXPECT_FALSE(status.ok()) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
    const PackageFolder missing;
    missing.Remove(name);
    EXPECT_FALSE(LoadModelPackage(missing.path()).ok()) << name;
  }
}

TEST(LoadModelPackageTest, ATokenizerLargerThanTheModelIsRefused) {
  const PackageFolder folder;
  ModelConfig config = TestConfig();
  config.vocab_size = 100;
  config.eos_token_ids = {1};
  folder.Write("config.json", config.ToJson());
  const absl::Status status = LoadModelPackage(folder.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("258"));
}

}  // namespace
}  // namespace flexquant::controller
