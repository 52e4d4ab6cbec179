#ifndef FLEXQUANT_TRANSPORT_SERVER_CREDENTIALS_H_
#define FLEXQUANT_TRANSPORT_SERVER_CREDENTIALS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/security/server_credentials.h"
#include "transport/tls_files.h"

namespace flexquant::transport {

// Who calls what.
struct Caller {
  absl::string_view method;         // "/package.Service/Method"
  absl::string_view authorization;  // the call's metadata of this name; empty = none
  // Subject alternative names of the client's certificate, or its common name if it has none. Empty = no certificate
  // was asked for.
  std::vector<std::string> names;
};

// OK, or the status whose code and message the call ends with before its service sees it: gRPC has no way to send
// details from here. Called from any thread; must not wait.
using AccessCheck = std::function<absl::Status(const Caller&)>;

// How a server listens.
struct ListenOptions {
  // "HOST:PORT" (port 0 = any free one); empty = no port, in-process only.
  std::string address = {};
  TlsFiles tls = {};             // none = plaintext; with `ca`, clients must show a certificate of it
  bool allow_plaintext = false;  // also where others than this machine can connect
  absl::Duration reload_interval = kReloadInterval;  // of the TLS files
  // Where grpc.health.v1 is answered too, in plaintext and to everybody (HealthPort); empty = nowhere else.
  std::string health_address = {};
};

// Whether only this machine can connect to "HOST:PORT": 127.0.0.0/8, [::1], localhost or unix:PATH. Other names are not
// resolved.
bool IsLoopback(absl::string_view address);

// INVALID_ARGUMENT for an address that is not HOST:PORT with a port from 0 to 65535, and for plaintext on one that
// others can reach without allow_plaintext; errors of OpenTlsFiles. So a server finds them before it loads a model.
absl::Status CheckListenOptions(const ListenOptions& options);

// Credentials for the one port of `options`; `check` is asked about every call over it but those of grpc.health.v1.
// Replaced TLS files serve the connections that follow. Errors of CheckListenOptions and OpenTlsFiles.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(const ListenOptions& options,
                                                                               AccessCheck check);

// UNAVAILABLE that names the address: what a port that could not be opened ends with.
absl::Status CannotListenError(absl::string_view address);

}  // namespace flexquant::transport

#endif  // FLEXQUANT_TRANSPORT_SERVER_CREDENTIALS_H_
