// Tokens and limits over a real port, and that no log ever shows a token.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "controller/server.h"
#include "flexquant/v1/inference.grpc.pb.h"
#include "flexquant/v1/model.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/security/credentials.h"
#include "proto/grpc_status.h"
#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"
#include "tests/controller/package_folder.h"
#include "tests/controller/status_test_util.h"
#include "tests/testing/fake_executor.h"
#include "tests/testing/test_certificates.h"
#include "transport/bearer_token.h"

namespace flexquant::controller {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kBlueToken[] = "blue-token-1234567890";
constexpr char kRedToken[] = "red-token-1234567890";
constexpr char kWrongToken[] = "wrong-token-1234567890";

class AccessTest : public ::testing::Test {
 protected:
  AccessTest() : logger_(spdlog::default_logger()) {
    spdlog::set_default_logger(
        std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log_)));
    spdlog::set_level(spdlog::level::trace);
    testing::FakeExecutorOptions executor_options;
    executor_options.model_revision = kPackageChecksum;
    executor_ =
        std::make_unique<testing::FakeExecutor>(executor_options, [](const std::vector<uint32_t>&, uint32_t index) {
          return testing::ScriptedToken{index < 5 ? 'a' + index : kEos, 0.0F, {}};
        });
    options_.model_dir = package_.path();
    options_.listen.address = "127.0.0.1:0";
    options_.listen.reload_interval = absl::ZeroDuration();
    options_.executors = {{"fake", executor_->channel()}};
    options_.tokens_file = files_.Path("tokens.json");
    WriteTokens({Entry("blue", kBlueToken)});
  }
  ~AccessTest() override {
    server_ = nullptr;
    spdlog::set_default_logger(logger_);
    spdlog::set_level(spdlog::level::info);
    for (const std::string token : {kBlueToken, kRedToken, kWrongToken}) {
      EXPECT_THAT(log_.str(), Not(HasSubstr(token)));
    }
  }

  static std::string Entry(const std::string& tenant, const std::string& token, const std::string& more = "") {
    return absl::StrCat(R"({"tenant": ")", tenant, R"(", "sha256": ")", transport::ToHex(transport::Sha256(token)),
                        "\"", more, "}");
  }

  void WriteTokens(const std::vector<std::string>& entries) {
    files_.Write("tokens.json", absl::StrCat("[", absl::StrJoin(entries, ","), "]"));
  }

  void Start() {
    auto server = ControllerServer::Create(options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    ASSERT_TRUE(server_->WaitReady(absl::Seconds(30)).ok());
    channel_ = grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->port()), grpc::InsecureChannelCredentials());
    inference_ = v1::InferenceService::NewStub(channel_);
  }

  static std::unique_ptr<grpc::ClientContext> Context(const std::string& token) {
    auto context = std::make_unique<grpc::ClientContext>();
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    if (!token.empty()) {
      context->AddMetadata("authorization", "Bearer " + token);
    }
    return context;
  }

  absl::Status Generate(const std::string& token, uint32_t max_tokens = 10) {
    v1::GenerateRequest request;
    request.set_text("hi");
    request.mutable_stop()->set_max_tokens(max_tokens);
    v1::GenerateResponse response;
    const absl::Status status = FromGrpcStatus(inference_->Generate(Context(token).get(), request, &response));
    EXPECT_EQ(response.text(), status.ok() ? "abcde" : "");
    return status;
  }

  absl::Status Tokenize(const std::string& token) {
    v1::TokenizeRequest request;
    request.set_text("hi");
    v1::TokenizeResponse response;
    return FromGrpcStatus(inference_->Tokenize(Context(token).get(), request, &response));
  }

  absl::Status ServerInfo(const std::string& token) {
    v1::GetServerInfoResponse response;
    return FromGrpcStatus(v1::ModelService::NewStub(channel_)->GetServerInfo(Context(token).get(), {}, &response));
  }

  // Of a method that no stub is there for.
  grpc::Status Call(const std::string& method, const std::string& token) {
    grpc::GenericStub stub(channel_);
    const auto context = Context(token);
    const grpc::Slice empty("");
    const grpc::ByteBuffer request(&empty, 1);
    grpc::ByteBuffer response;
    grpc::CompletionQueue queue;
    const auto call = stub.PrepareUnaryCall(context.get(), method, request, &queue);
    call->StartCall();
    grpc::Status status;
    call->Finish(&response, &status, &queue);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return status;
  }

  std::ostringstream log_;
  std::shared_ptr<spdlog::logger> logger_;
  PackageFolder package_;
  testing::TestFolder files_;
  std::unique_ptr<testing::FakeExecutor> executor_;
  ControllerOptions options_;
  std::unique_ptr<ControllerServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
};

TEST_F(AccessTest, EveryCallButHealthNeedsAToken) {
  Start();
  const std::string reflection = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  for (const std::string& token : {std::string(), std::string(kWrongToken), std::string(kRedToken)}) {
    for (const absl::Status& status : {Generate(token), Tokenize(token), ServerInfo(token)}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << status;
      // A port's refusal has no details, so the text has to say what to do.
      EXPECT_THAT(std::string(status.message()), HasSubstr(token.empty() ? "--token-file FILE" : "ask its operator"));
      EXPECT_THAT(std::string(status.message()), Not(HasSubstr(kWrongToken)));
    }
    EXPECT_EQ(Call(reflection, token).error_code(), grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_TRUE(Call("/grpc.health.v1.Health/Check", token).ok());
  }
  EXPECT_THAT(std::string(Generate("").message()), HasSubstr("authorization: Bearer TOKEN"));
  EXPECT_TRUE(Generate(kBlueToken).ok());
  EXPECT_TRUE(Tokenize(kBlueToken).ok());
  EXPECT_TRUE(ServerInfo(kBlueToken).ok());
  EXPECT_TRUE(Call(reflection, kBlueToken).ok());
  EXPECT_THAT(log_.str(), HasSubstr("tenant=\"blue\""));
}

TEST_F(AccessTest, InProcessCallsThatGenerateNeedATokenToo) {
  Start();
  inference_ = v1::InferenceService::NewStub(server_->InProcessChannel());
  for (const absl::Status& status : {Generate(""), Tokenize(kWrongToken)}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated);
    EXPECT_EQ(ReasonOf(status), "INVALID_TOKEN");
  }
  EXPECT_TRUE(Generate(kBlueToken).ok());
}

TEST_F(AccessTest, ReplacedTokensApplyToTheNextCall) {
  Start();
  EXPECT_EQ(Generate(kRedToken).code(), absl::StatusCode::kUnauthenticated);
  WriteTokens({Entry("red", kRedToken)});
  EXPECT_TRUE(Generate(kRedToken).ok());
  EXPECT_EQ(Generate(kBlueToken).code(), absl::StatusCode::kUnauthenticated);
  // A damaged file changes nothing.
  files_.Write("tokens.json", "[");
  EXPECT_TRUE(Generate(kRedToken).ok());
  WriteTokens({Entry("red", kRedToken, R"(, "expires": "2020-01-01T00:00:00Z")")});
  const absl::Status expired = Generate(kRedToken);
  EXPECT_EQ(expired.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(expired.message()), HasSubstr("expired"));
}

TEST_F(AccessTest, ABadTokensFileIsAClearError) {
  files_.Write("tokens.json", "{}");
  const absl::Status status = ControllerServer::Create(options_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokens.json"));
  options_.tokens_file = files_.Path("absent");
  EXPECT_EQ(ControllerServer::Create(options_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(AccessTest, ATenantHasNoMoreThanItsPlaces) {
  WriteTokens({Entry("blue", kBlueToken, R"(, "max_concurrent_requests": 1)"), Entry("red", kRedToken)});
  Start();
  executor_->HoldResults();
  v1::GenerateStreamRequest request;
  request.mutable_request()->set_text("hi");
  const auto context = Context(kBlueToken);
  const auto reader = inference_->GenerateStream(context.get(), request);
  v1::GenerateStreamResponse event;
  ASSERT_TRUE(reader->Read(&event));
  const absl::Status refused = Generate(kBlueToken);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(refused).violations(0).subject(), "tenant:blue");
  EXPECT_TRUE(HasRetryDelay(refused));
  executor_->ResumeResults();
  EXPECT_TRUE(Generate(kRedToken).ok());
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  // The place is free as soon as the client knows the end, and after refused, failed and cancelled requests too.
  EXPECT_TRUE(Generate(kBlueToken).ok());
  EXPECT_EQ(Generate(kBlueToken, 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Generate(kBlueToken).ok());
}

TEST_F(AccessTest, ARetryNeedsNoSecondPlace) {
  WriteTokens({Entry("blue", kBlueToken, R"(, "max_concurrent_requests": 1)")});
  Start();
  executor_->HoldResults();
  v1::GenerateStreamRequest request;
  request.mutable_request()->set_text("hi");
  request.mutable_request()->set_request_id("mine");
  const auto first_context = Context(kBlueToken);
  const auto first = inference_->GenerateStream(first_context.get(), request);
  v1::GenerateStreamResponse event;
  ASSERT_TRUE(first->Read(&event));
  const auto second_context = Context(kBlueToken);
  const auto second = inference_->GenerateStream(second_context.get(), request);
  executor_->ResumeResults();
  while (first->Read(&event)) {
  }
  first->Finish();
  while (second->Read(&event)) {
  }
  const absl::Status status = FromGrpcStatus(second->Finish());
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(AccessTest, ATenantAbortsOnlyItsOwnRequests) {
  WriteTokens({Entry("blue", kBlueToken), Entry("red", kRedToken)});
  Start();
  executor_->HoldResults();
  v1::GenerateStreamRequest request;
  request.mutable_request()->set_text("hi");
  request.mutable_request()->set_request_id("id");
  const auto context = Context(kBlueToken);
  const auto reader = inference_->GenerateStream(context.get(), request);
  v1::GenerateStreamResponse event;
  ASSERT_TRUE(reader->Read(&event));
  v1::AbortRequest abort;
  abort.set_request_id("id");
  const auto abort_as = [&](const std::string& token) {
    v1::AbortResponse response;
    return FromGrpcStatus(inference_->Abort(Context(token).get(), abort, &response));
  };
  EXPECT_EQ(abort_as("").code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(abort_as(kRedToken).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(abort_as(kBlueToken).ok());
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  executor_->ResumeResults();
  abort.set_request_id(std::string(129, 'x'));
  EXPECT_EQ(ViolatedField(abort_as(kBlueToken)), "request_id");
}

TEST_F(AccessTest, RequestsAndTokensHaveLimits) {
  WriteTokens({Entry("blue", kBlueToken, R"(, "max_tokens_per_request": 20, "requests_per_minute": 3)"),
               Entry("red", kRedToken)});
  Start();
  const absl::Status too_long = Generate(kBlueToken, 100);
  EXPECT_EQ(too_long.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(too_long.message()), HasSubstr("max_tokens_per_request"));
  EXPECT_TRUE(Generate(kBlueToken).ok());
  EXPECT_TRUE(Tokenize(kBlueToken).ok());
  for (const absl::Status& status : {Generate(kBlueToken), Tokenize(kBlueToken)}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("requests_per_minute"));
    EXPECT_TRUE(HasRetryDelay(status));
  }
  EXPECT_TRUE(Generate(kRedToken, 100).ok());
}

}  // namespace
}  // namespace flexquant::controller
