// Who may call an executor over TLS: its controller, by the name in the certificate.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "executor/server.h"
#include "flexquant/executor/v1/executor.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "proto/grpc_status.h"
#include "tests/executor/test_model.h"
#include "tests/testing/test_certificates.h"

namespace flexquant::executor {
namespace {

using ::testing::HasSubstr;

class IdentityTest : public ::testing::Test {
 protected:
  IdentityTest() : model_(TestModel::Random()) {
    folder_.Write(authority_.IssueServer(), "executor");
    folder_.Write("ca.crt", authority_.pem());
    options_.model_dir = model_->path();
    options_.num_threads = 1;
    options_.kv_cache_bytes = 1 << 20;
    options_.listen.address = "127.0.0.1:0";
    options_.listen.tls = {folder_.Path("executor.crt"), folder_.Path("executor.key"), folder_.Path("ca.crt")};
  }

  absl::Status Describe(const std::shared_ptr<grpc::ChannelCredentials>& credentials) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto stub = v1::ExecutorService::NewStub(
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server_->port()), credentials, arguments));
    grpc::ClientContext context;
    v1::DescribeResponse response;
    return FromGrpcStatus(stub->Describe(&context, v1::DescribeRequest(), &response));
  }

  absl::Status DescribeAs(const testing::TestIdentity& identity) const {
    return Describe(grpc::SslCredentials({authority_.pem(), identity.key_pem, identity.certificate_pem}));
  }

  void Start() {
    auto server = ExecutorServer::Create(options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  testing::TestFolder folder_;
  testing::TestAuthority authority_;
  std::unique_ptr<TestModel> model_;
  ExecutorOptions options_;
  std::unique_ptr<ExecutorServer> server_;
};

TEST_F(IdentityTest, OnlyTheControllerMayCall) {
  Start();
  EXPECT_TRUE(DescribeAs(authority_.Issue({.common_name = kControllerName})).ok());
  EXPECT_TRUE(DescribeAs(authority_.Issue({.alternative_names = "DNS:other,DNS:flexquant-controller"})).ok());
  const absl::Status other = DescribeAs(authority_.Issue({.common_name = "flexquant-executor"}));
  EXPECT_EQ(other.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(other.message()), HasSubstr("flexquant-executor"));
  EXPECT_THAT(std::string(other.message()), HasSubstr("--allow-client"));
  // A common name does not count beside alternative names.
  EXPECT_EQ(DescribeAs(authority_.Issue({.common_name = kControllerName, .alternative_names = "DNS:other"})).code(),
            absl::StatusCode::kPermissionDenied);
  // Nobody without a certificate, or with one of another authority.
  EXPECT_EQ(Describe(grpc::SslCredentials({authority_.pem(), "", ""})).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Describe(grpc::InsecureChannelCredentials()).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(DescribeAs(testing::TestAuthority().Issue({.common_name = kControllerName})).code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(IdentityTest, NamesCanBeChosen) {
  options_.allowed_clients = {"blue", "spiffe://example.org/controller"};
  Start();
  EXPECT_TRUE(DescribeAs(authority_.Issue({.common_name = "blue"})).ok());
  EXPECT_TRUE(DescribeAs(authority_.Issue({.alternative_names = "URI:spiffe://example.org/controller"})).ok());
  EXPECT_EQ(DescribeAs(authority_.Issue({.common_name = kControllerName})).code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(IdentityTest, ExecutionIsRefusedToo) {
  Start();
  const testing::TestIdentity other = authority_.Issue({.common_name = "other"});
  const auto stub = v1::ExecutorService::NewStub(
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->port()),
                          grpc::SslCredentials({authority_.pem(), other.key_pem, other.certificate_pem})));
  grpc::ClientContext context;
  const auto stream = stub->Execute(&context);
  v1::ExecuteResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::PERMISSION_DENIED);
}

TEST_F(IdentityTest, ListeningSafelyIsTheDefault) {
  const auto refusal = [&](auto change) {
    ExecutorOptions options = options_;
    change(options);
    const absl::Status status = ExecutorServer::Create(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(refusal([](ExecutorOptions& o) { o.listen.tls.ca.clear(); }), HasSubstr("--tls-client-ca"));
  EXPECT_THAT(refusal([](ExecutorOptions& o) { o.allowed_clients.clear(); }), HasSubstr("--allow-client"));
  EXPECT_THAT(refusal([](ExecutorOptions& o) { o.listen = {.address = "0.0.0.0:0"}; }), HasSubstr("--allow-plaintext"));
  options_.listen = {.address = "0.0.0.0:0", .allow_plaintext = true};
  Start();
  EXPECT_TRUE(Describe(grpc::InsecureChannelCredentials()).ok());
}

}  // namespace
}  // namespace flexquant::executor
