#include "transport/server_credentials.h"

#include <arpa/inet.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <netinet/in.h>

#include <mutex>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/status_macros.h"
#include "spdlog/spdlog.h"
#include "transport/bearer_token.h"

namespace flexquant::transport {
namespace {

constexpr absl::string_view kHealthPrefix = "/grpc.health.v1.Health/";

absl::string_view AsView(const grpc_slice& slice) {
  return {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(slice)), GRPC_SLICE_LENGTH(slice)};
}

// "HOST" of "HOST:PORT", without the brackets of an IPv6 address.
absl::string_view HostOf(absl::string_view address) {
  absl::string_view host = address.substr(0, address.rfind(':'));
  if (absl::ConsumePrefix(&host, "[")) {
    absl::ConsumeSuffix(&host, "]");
  }
  return host;
}

std::vector<std::string> PeerNames(const grpc_auth_context* context) {
  std::vector<std::string> names;
  grpc_auth_property_iterator iterator = grpc_auth_context_peer_identity(context);
  while (const grpc_auth_property* property = grpc_auth_property_iterator_next(&iterator)) {
    names.emplace_back(property->value, property->value_length);
  }
  return names;
}

// What gRPC's callbacks need; owned by the core's credentials, which outlive the C++ ones.
struct PortState {
  PortState(std::shared_ptr<Reloaded<TlsMaterial>> files, AccessCheck access_check)
      : tls(std::move(files)), check(std::move(access_check)) {}

  const std::shared_ptr<Reloaded<TlsMaterial>> tls;  // null = plaintext
  const AccessCheck check;
  std::mutex mutex;
  std::shared_ptr<const TlsMaterial> served;  // handed to gRPC last
};

absl::Status Check(const PortState& state, grpc_auth_context* context, const grpc_metadata* metadata, size_t count) {
  Caller caller;
  for (size_t i = 0; i < count; ++i) {
    const absl::string_view key = AsView(metadata[i].key);
    if (key == ":path") {
      caller.method = AsView(metadata[i].value);
    } else if (key == kAuthorizationKey && caller.authorization.empty()) {
      caller.authorization = AsView(metadata[i].value);
    }
  }
  if (state.check == nullptr || absl::StartsWith(caller.method, kHealthPrefix)) {
    return absl::OkStatus();
  }
  caller.names = PeerNames(context);
  return state.check(caller);
}

void ProcessMetadata(void* state, grpc_auth_context* context, const grpc_metadata* metadata, size_t count,
                     grpc_process_auth_metadata_done_cb done, void* user_data) {
  const absl::Status status = Check(*static_cast<PortState*>(state), context, metadata, count);
  // Details would have to go in the response metadata, which gRPC ignores here.
  done(user_data, nullptr, 0, nullptr, 0, static_cast<grpc_status_code>(status.code()),
       status.ok() ? nullptr : std::string(status.message()).c_str());
}

// Asked by gRPC at the start and before every handshake.
grpc_ssl_certificate_config_reload_status FetchCertificates(void* user_data,
                                                            grpc_ssl_server_certificate_config** config) {
  auto& state = *static_cast<PortState*>(user_data);
  const std::lock_guard lock(state.mutex);
  std::shared_ptr<const TlsMaterial> current = state.tls->Current();
  if (current == state.served) {
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
  }
  const grpc_ssl_pem_key_cert_pair pair = {current->key_pem.c_str(), current->certificate_pem.c_str()};
  // gRPC insists on authorities here, even if no certificate is asked for and they are never looked at.
  const std::string& ca_pem = current->ca_pem.empty() ? current->certificate_pem : current->ca_pem;
  *config = grpc_ssl_server_certificate_config_create(ca_pem.c_str(), &pair, 1);
  state.served = std::move(current);
  return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

// gRPC's C++ interface has neither certificates that are fetched at every handshake, which keep the old ones when new
// ones are bad, nor a check of calls over plaintext; its C interface has both.
class PortCredentials final : public grpc::ServerCredentials {
 public:
  PortCredentials(std::shared_ptr<Reloaded<TlsMaterial>> tls, bool require_client_certificate, AccessCheck check) {
    auto state = std::make_unique<PortState>(std::move(tls), std::move(check));
    if (state->tls == nullptr) {
      credentials_ = grpc_insecure_server_credentials_create();
    } else {
      credentials_ = grpc_ssl_server_credentials_create_with_options(
          grpc_ssl_server_credentials_create_options_using_config_fetcher(
              require_client_certificate ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                         : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
              &FetchCertificates, state.get()));
    }
    grpc_server_credentials_set_auth_metadata_processor(
        credentials_, {&ProcessMetadata, [](void* owned) { delete static_cast<PortState*>(owned); }, state.release()});
  }
  ~PortCredentials() override { grpc_server_credentials_release(credentials_); }

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>& /*processor*/) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  grpc_server_credentials* credentials_;
};

}  // namespace

bool IsLoopback(absl::string_view address) {
  if (absl::StartsWith(address, "unix:")) {
    return true;
  }
  const std::string host(HostOf(address));
  if (host == "localhost") {
    return true;
  }
  in_addr ipv4 = {};
  if (inet_pton(AF_INET, host.c_str(), &ipv4) == 1) {
    return (ntohl(ipv4.s_addr) >> 24U) == 127;
  }
  in6_addr ipv6 = {};
  return inet_pton(AF_INET6, host.c_str(), &ipv6) == 1 && IN6_IS_ADDR_LOOPBACK(&ipv6);
}

absl::Status CheckListenOptions(const ListenOptions& options) {
  const absl::string_view address = options.address;
  if (address.empty()) {
    return absl::OkStatus();
  }
  const size_t colon = address.rfind(':');
  int port = -1;
  if (colon == absl::string_view::npos || colon == 0 || !absl::SimpleAtoi(address.substr(colon + 1), &port) ||
      port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("listen address '", address, "' is not HOST:PORT with a port from 0 (any free one) to 65535"));
  }
  if (options.tls.empty() && !options.allow_plaintext && !IsLoopback(address)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listening on ", address, " without TLS would let others on the network read and send everything; ",
        "give --tls-cert and --tls-key, listen on 127.0.0.1, or give --allow-plaintext if the network is safe"));
  }
  if (options.tls.empty()) {
    return absl::OkStatus();
  }
  if (options.tls.certificate.empty()) {
    return absl::InvalidArgumentError("a server needs a certificate for TLS; give --tls-cert and --tls-key");
  }
  return OpenTlsFiles(options.tls, options.reload_interval).status();
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(const ListenOptions& options,
                                                                               AccessCheck check) {
  FQ_RETURN_IF_ERROR(CheckListenOptions(options));
  std::shared_ptr<Reloaded<TlsMaterial>> tls;
  if (!options.tls.empty()) {
    FQ_ASSIGN_OR_RETURN(tls, OpenTlsFiles(options.tls, options.reload_interval));
  } else if (!options.address.empty() && !IsLoopback(options.address)) {
    spdlog::warn("{} is served without TLS: who can reach it can read and send everything", options.address);
  }
  return std::make_shared<PortCredentials>(std::move(tls), !options.tls.ca.empty(), std::move(check));
}

absl::Status CannotListenError(absl::string_view address) {
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", address,
                   ": the port is taken or the address is not one of this machine's; choose another with --listen"));
}

}  // namespace flexquant::transport
