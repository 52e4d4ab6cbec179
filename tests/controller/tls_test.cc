// The whole controller over TLS.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "controller/server.h"
#include "flexquant/v1/inference.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "proto/grpc_status.h"
#include "tests/controller/package_folder.h"
#include "tests/testing/fake_executor.h"
#include "tests/testing/test_certificates.h"

namespace flexquant::controller {
namespace {

using ::testing::HasSubstr;

class TlsTest : public ::testing::Test {
 protected:
  TlsTest() {
    testing::FakeExecutorOptions executor_options;
    executor_options.model_revision = kPackageChecksum;
    executor_ =
        std::make_unique<testing::FakeExecutor>(executor_options, [](const std::vector<uint32_t>&, uint32_t index) {
          return testing::ScriptedToken{index < 5 ? 'a' + index : kEos, 0.0F, {}};
        });
    files_.Write(authority_.IssueServer(), "server");
    options_.model_dir = package_.path();
    options_.listen.address = "127.0.0.1:0";
    options_.listen.tls = {files_.Path("server.crt"), files_.Path("server.key"), ""};
    options_.listen.reload_interval = absl::ZeroDuration();
    options_.executors = {{"fake", executor_->channel()}};
  }

  void Start() {
    auto server = ControllerServer::Create(options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    ASSERT_TRUE(server_->WaitReady(absl::Seconds(30)).ok());
  }

  // Over a connection of its own.
  std::unique_ptr<v1::InferenceService::Stub> Connect(const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return v1::InferenceService::NewStub(
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server_->port()), credentials, arguments));
  }

  static std::shared_ptr<grpc::ChannelCredentials> Trusting(const testing::TestAuthority& authority) {
    return grpc::SslCredentials({authority.pem(), "", ""});
  }

  absl::Status Generate(const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    grpc::ClientContext context;
    v1::GenerateRequest request;
    request.set_text("hi");
    v1::GenerateResponse response;
    const absl::Status status = FromGrpcStatus(Connect(credentials)->Generate(&context, request, &response));
    EXPECT_EQ(response.text(), status.ok() ? "abcde" : "");
    return status;
  }

  PackageFolder package_;
  testing::TestFolder files_;
  testing::TestAuthority authority_;
  std::unique_ptr<testing::FakeExecutor> executor_;
  ControllerOptions options_;
  std::unique_ptr<ControllerServer> server_;
};

TEST_F(TlsTest, AnswersOverTlsOnly) {
  Start();
  EXPECT_TRUE(Generate(Trusting(authority_)).ok());
  EXPECT_EQ(Generate(Trusting(testing::TestAuthority())).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Generate(grpc::InsecureChannelCredentials()).code(), absl::StatusCode::kUnavailable);
}

TEST_F(TlsTest, ClientCertificatesCanBeDemanded) {
  options_.listen.tls.ca = files_.Write("ca.crt", authority_.pem());
  Start();
  EXPECT_EQ(Generate(Trusting(authority_)).code(), absl::StatusCode::kUnavailable);
  const testing::TestIdentity client = authority_.Issue({.common_name = "somebody"});
  EXPECT_TRUE(Generate(grpc::SslCredentials({authority_.pem(), client.key_pem, client.certificate_pem})).ok());
}

TEST_F(TlsTest, AnAnswerGoesOnWhileTheCertificateIsReplaced) {
  Start();
  executor_->HoldResults();
  grpc::ClientContext context;
  v1::GenerateStreamRequest request;
  request.mutable_request()->set_text("hi");
  const auto stub = Connect(Trusting(authority_));
  const auto reader = stub->GenerateStream(&context, request);
  v1::GenerateStreamResponse event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_TRUE(event.has_started());

  const testing::TestAuthority next;
  files_.Write(next.IssueServer(), "server");
  EXPECT_EQ(Generate(Trusting(authority_)).code(), absl::StatusCode::kUnavailable);
  executor_->ResumeResults();
  EXPECT_TRUE(Generate(Trusting(next)).ok());

  std::string text;
  while (reader->Read(&event)) {
    text += event.delta().text();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, "abcde");
}

TEST_F(TlsTest, PlaintextForOthersMustBeAskedFor) {
  options_.listen = {.address = "0.0.0.0:0"};
  const absl::Status status = ControllerServer::Create(options_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--tls-cert"));
  options_.listen.allow_plaintext = true;
  Start();
  EXPECT_TRUE(Generate(grpc::InsecureChannelCredentials()).ok());
}

}  // namespace
}  // namespace flexquant::controller
