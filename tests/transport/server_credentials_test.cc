// Real connections over loopback: who gets through, with which certificate.

#include "transport/server_credentials.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "tests/testing/test_certificates.h"
#include "transport/channel_credentials.h"

namespace flexquant::transport {
namespace {

using ::testing::HasSubstr;

// What a call that got through ends with: the server has no such method.
constexpr auto kReached = grpc::StatusCode::UNIMPLEMENTED;
constexpr auto kNoConnection = grpc::StatusCode::UNAVAILABLE;

class ServerCredentialsTest : public ::testing::Test {
 protected:
  ServerCredentialsTest() {
    folder_.Write(authority_.IssueServer(), "server");
    folder_.Write(authority_.Issue({.alternative_names = "DNS:client"}), "client");
    folder_.Write("ca.crt", authority_.pem());
    options_.address = "127.0.0.1:0";
    options_.tls = {folder_.Path("server.crt"), folder_.Path("server.key"), ""};
    options_.reload_interval = absl::ZeroDuration();
    connect_.files.ca = folder_.Path("ca.crt");
    connect_.reload_interval = absl::ZeroDuration();
  }
  ~ServerCredentialsTest() override {
    if (server_ != nullptr) {
      server_->Shutdown();
    }
  }

  void Start(AccessCheck check = nullptr) {
    const auto credentials = MakeServerCredentials(options_, std::move(check));
    ASSERT_TRUE(credentials.ok()) << credentials.status();
    Start(*credentials);
  }

  void Start(const std::shared_ptr<grpc::ServerCredentials>& credentials) {
    grpc::EnableDefaultHealthCheckService(true);
    server_ = nullptr;
    no_methods_ = std::make_unique<grpc::CallbackGenericService>();
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", credentials, &port_);
    builder.RegisterCallbackGenericService(no_methods_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }

  void RequireClientCertificates() { options_.tls.ca = folder_.Path("ca.crt"); }
  void ShowClientCertificate() {
    connect_.files.certificate = folder_.Path("client.crt");
    connect_.files.key = folder_.Path("client.key");
  }

  // A call over a connection of its own.
  grpc::Status Call(const std::string& method = "/test.Service/Method", const std::string& authorization = "") const {
    const auto credentials = ChannelCredentials::Open(connect_);
    EXPECT_TRUE(credentials.ok()) << credentials.status();
    grpc::ChannelArguments arguments;
    (*credentials)->AddArguments(arguments);
    return Call((*credentials)->Current(), arguments, method, authorization);
  }

  grpc::Status Call(const std::shared_ptr<grpc::ChannelCredentials>& credentials, grpc::ChannelArguments arguments,
                    const std::string& method = "/test.Service/Method", const std::string& authorization = "") const {
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    grpc::GenericStub stub(grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port_), credentials, arguments));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    if (!authorization.empty()) {
      context.AddMetadata("authorization", authorization);
    }
    const grpc::Slice empty("");
    const grpc::ByteBuffer request(&empty, 1);
    grpc::ByteBuffer response;
    std::promise<grpc::Status> done;
    stub.UnaryCall(&context, method, grpc::StubOptions(), &request, &response,
                   [&](const grpc::Status& status) { done.set_value(status); });
    return done.get_future().get();
  }

  testing::TestFolder folder_;
  testing::TestAuthority authority_;
  ListenOptions options_;
  ConnectOptions connect_;
  int port_ = 0;
  std::unique_ptr<grpc::CallbackGenericService> no_methods_;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(ServerCredentialsTest, TlsNeedsAClientThatTrustsTheServer) {
  Start();
  EXPECT_EQ(Call().error_code(), kReached);
  // Another authority.
  folder_.Write("ca.crt", testing::TestAuthority().pem());
  EXPECT_EQ(Call().error_code(), kNoConnection);
  // No TLS.
  EXPECT_EQ(Call(grpc::InsecureChannelCredentials(), {}).error_code(), kNoConnection);
}

TEST_F(ServerCredentialsTest, TheServersNameIsChecked) {
  folder_.Write(authority_.Issue({.alternative_names = "DNS:another.example"}), "server");
  Start();
  EXPECT_EQ(Call().error_code(), kNoConnection);
  connect_.server_name = "another.example";
  EXPECT_EQ(Call().error_code(), kReached);
}

TEST_F(ServerCredentialsTest, MutualTlsNeedsACertificateOfTheRightAuthority) {
  RequireClientCertificates();
  std::vector<std::string> names;
  Start([&](const Caller& caller) {
    names = caller.names;
    return absl::OkStatus();
  });
  EXPECT_EQ(Call().error_code(), kNoConnection);
  ShowClientCertificate();
  EXPECT_EQ(Call().error_code(), kReached);
  EXPECT_EQ(names, std::vector<std::string>{"client"});
  folder_.Write(testing::TestAuthority().Issue({.alternative_names = "DNS:client"}), "client");
  EXPECT_EQ(Call().error_code(), kNoConnection);
  // Without alternative names, the common name is what a client is called.
  folder_.Write(authority_.Issue({.common_name = "by common name"}), "client");
  EXPECT_EQ(Call().error_code(), kReached);
  EXPECT_EQ(names, std::vector<std::string>{"by common name"});
}

TEST_F(ServerCredentialsTest, ExpiredCertificatesAreRefusedByTheOtherSide) {
  RequireClientCertificates();
  Start();
  const testing::TestIdentity expired =
      authority_.Issue({.alternative_names = "IP:127.0.0.1", .valid_for = -absl::Seconds(10)});
  EXPECT_EQ(Call(grpc::SslCredentials({authority_.pem(), expired.key_pem, expired.certificate_pem}), {}).error_code(),
            kNoConnection);
  server_->Shutdown();
  // Ours would not start with it, so a server of gRPC's own.
  grpc::SslServerCredentialsOptions expired_server;
  expired_server.pem_key_cert_pairs = {{expired.key_pem, expired.certificate_pem}};
  Start(grpc::SslServerCredentials(expired_server));
  EXPECT_EQ(Call().error_code(), kNoConnection);
}

TEST_F(ServerCredentialsTest, ReplacedFilesServeTheNextConnection) {
  RequireClientCertificates();
  ShowClientCertificate();
  Start();
  EXPECT_EQ(Call().error_code(), kReached);
  // Everything changes at once: the server's certificate, and whose clients it takes.
  const testing::TestAuthority next;
  folder_.Write(next.IssueServer(), "server");
  folder_.Write("ca.crt", next.pem());
  EXPECT_EQ(Call().error_code(), kNoConnection);
  folder_.Write(next.Issue({.alternative_names = "DNS:client"}), "client");
  EXPECT_EQ(Call().error_code(), kReached);
  // What cannot be used is not taken over.
  folder_.Write("server.crt", "nonsense");
  EXPECT_EQ(Call().error_code(), kReached);
}

TEST_F(ServerCredentialsTest, AChannelSeesReplacedFilesWhenItIsMadeAnew) {
  ShowClientCertificate();
  const auto credentials = ChannelCredentials::Open(connect_);
  ASSERT_TRUE(credentials.ok()) << credentials.status();
  const auto first = (*credentials)->Current();
  EXPECT_EQ((*credentials)->Current(), first);
  folder_.Write(authority_.Issue({}), "client");
  EXPECT_NE((*credentials)->Current(), first);
}

TEST_F(ServerCredentialsTest, TheCheckSeesEveryCallButHealth) {
  for (const bool tls : {true, false}) {
    SCOPED_TRACE(tls ? "TLS" : "plaintext");
    if (!tls) {
      options_.tls = {};
      connect_ = {};
    }
    std::vector<std::string> seen;
    Start([&](const Caller& caller) -> absl::Status {
      seen.push_back(absl::StrCat(caller.method, " ", caller.authorization, absl::StrJoin(caller.names, ",")));
      if (caller.authorization == "let me in") {
        return absl::OkStatus();
      }
      return absl::UnauthenticatedError("say the word");
    });
    const grpc::Status refused = Call();
    EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(refused.error_message(), "say the word");
    EXPECT_EQ(Call("/a.B/C", "let me in").error_code(), kReached);
    EXPECT_EQ(Call("/grpc.health.v1.Health/Check").error_code(), grpc::StatusCode::OK);
    EXPECT_EQ(Call("/grpc.health.v1.HealthNot/Check").error_code(), grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_THAT(
        seen, ::testing::ElementsAre("/test.Service/Method ", "/a.B/C let me in", "/grpc.health.v1.HealthNot/Check "));
    server_->Shutdown();
  }
}

TEST(ListenOptionsTest, OnlyThisMachineWithoutTls) {
  const testing::TestFolder folder;
  folder.Write(testing::TestAuthority().IssueServer(), "server");
  const TlsFiles tls = {folder.Path("server.crt"), folder.Path("server.key"), ""};
  for (const std::string address : {"127.0.0.1:0", "127.8.9.1:5", "localhost:1", "[::1]:50051"}) {
    EXPECT_TRUE(IsLoopback(address)) << address;
    EXPECT_TRUE(CheckListenOptions({.address = address}).ok()) << address;
  }
  EXPECT_TRUE(IsLoopback("unix:socket"));
  for (const std::string address : {"0.0.0.0:50051", "[::]:50051", "10.0.0.1:1", "127.0.0.1.example.com:1",
                                    "localhost.example.com:1", "[::ffff:127.0.0.1]:1", "*:1", "128.0.0.1:1"}) {
    EXPECT_FALSE(IsLoopback(address)) << address;
    const absl::Status status = CheckListenOptions({.address = address});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << address;
    EXPECT_THAT(std::string(status.message()), HasSubstr(address));
    EXPECT_THAT(std::string(status.message()), HasSubstr("--tls-cert"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("--allow-plaintext"));
    EXPECT_TRUE(CheckListenOptions({.address = address, .allow_plaintext = true}).ok()) << address;
    EXPECT_TRUE(CheckListenOptions({.address = address, .tls = tls}).ok()) << address;
    EXPECT_THAT(std::string(CheckListenOptions({.address = address, .tls = {"no-such-file", tls.key, ""}}).message()),
                HasSubstr("no-such-file"));
  }
}

TEST(ListenOptionsTest, AddressesAreChecked) {
  for (const std::string address : {"localhost", ":1", "localhost:", "localhost:x", "localhost:65536", "nonsense"}) {
    EXPECT_EQ(CheckListenOptions({.address = address}).code(), absl::StatusCode::kInvalidArgument) << address;
  }
  EXPECT_TRUE(CheckListenOptions({}).ok());
}

TEST(ListenOptionsTest, ClientAuthoritiesAloneAreNoTls) {
  EXPECT_EQ(MakeServerCredentials({.address = "127.0.0.1:0", .tls = {"", "", "ca.crt"}}, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace flexquant::transport
