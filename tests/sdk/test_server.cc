#include "tests/sdk/test_server.h"

#include "absl/strings/str_cat.h"
#include "controller/server.h"
#include "tests/controller/package_folder.h"
#include "tests/testing/test_certificates.h"
#include "transport/bearer_token.h"

namespace flexquant::sdk {

struct TestServer::Parts {
  controller::PackageFolder package;
  testing::TestFolder files;
  testing::TestAuthority authority;
  std::unique_ptr<controller::ControllerServer> server;
};

TestServer::TestServer(const TestServerOptions& options) : parts_(std::make_unique<Parts>()) {
  testing::FakeExecutorOptions executor_options;
  executor_options.model_revision = controller::kPackageChecksum;
  executor_ =
      std::make_unique<testing::FakeExecutor>(executor_options, [](const std::vector<uint32_t>&, uint32_t index) {
        return testing::ScriptedToken{index < 5 ? 'a' + index : controller::kEos, 0.5F, {}};
      });
  controller::ControllerOptions controller_options;
  controller_options.model_dir = parts_->package.path();
  controller_options.listen.address = "127.0.0.1:0";
  controller_options.executors = {{"fake", executor_->channel()}};
  if (options.mutual_tls) {
    parts_->files.Write(parts_->authority.IssueServer(), "server");
    parts_->files.Write(parts_->authority.Issue({.common_name = "somebody"}), "client");
    parts_->files.Write("ca.crt", parts_->authority.pem());
    controller_options.listen.tls = {Path("server.crt"), Path("server.key"), Path("ca.crt")};
  }
  if (!options.token.empty()) {
    controller_options.tokens_file =
        parts_->files.Write("tokens.json", absl::StrCat(R"([{"tenant": "blue", "sha256": ")",
                                                        transport::ToHex(transport::Sha256(options.token)), R"("}])"));
  }
  auto server = controller::ControllerServer::Create(controller_options);
  EXPECT_TRUE(server.ok()) << server.status();
  parts_->server = *std::move(server);
  EXPECT_TRUE(parts_->server->WaitReady(absl::Seconds(30)).ok());
}

TestServer::~TestServer() {
  executor_->ResumeResults();
  parts_->server->Shutdown(absl::ZeroDuration());
}

std::string TestServer::address() const { return absl::StrCat("127.0.0.1:", parts_->server->port()); }

std::string TestServer::Path(const std::string& name) const { return parts_->files.Path(name); }

}  // namespace flexquant::sdk
