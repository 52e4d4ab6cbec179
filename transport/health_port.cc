#include "transport/health_port.h"

#include <chrono>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/impl/server_builder_option.h"
#include "grpcpp/impl/server_builder_plugin.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "transport/server_credentials.h"

namespace flexquant::transport {
namespace {

// gRPC's plugins are registered for the whole process; reflection is not for everybody.
class WithoutPlugins final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments* /*args*/) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override { plugins->clear(); }
};

constexpr int kMaxRequestBytes = 1024;

}  // namespace

absl::StatusOr<std::unique_ptr<HealthPort>> HealthPort::Open(const std::string& address) {
  // It says nothing that is worth hiding.
  FQ_RETURN_IF_ERROR(CheckListenOptions({.address = address, .allow_plaintext = true}));
  grpc::EnableDefaultHealthCheckService(true);
  std::unique_ptr<HealthPort> made(new HealthPort);
  grpc::ServerBuilder builder;
  builder.SetOption(std::make_unique<WithoutPlugins>());
  builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &made->port_);
  builder.RegisterCallbackGenericService(&made->no_methods_);
  made->server_ = builder.BuildAndStart();
  if (made->server_ == nullptr || made->port_ == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot answer health on ", address,
                     ": the port is taken or the address is not one of this machine's; choose another with "
                     "--health-listen"));
  }
  made->Set("", false);
  return made;
}

HealthPort::~HealthPort() {
  if (server_ != nullptr) {
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
  }
}

void HealthPort::Set(const std::string& service, bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(service, serving);
}

}  // namespace flexquant::transport
