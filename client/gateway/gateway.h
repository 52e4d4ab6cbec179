#ifndef FLEXQUANT_CLIENT_GATEWAY_GATEWAY_H_
#define FLEXQUANT_CLIENT_GATEWAY_GATEWAY_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cpp/client.h"
#include "client/gateway/http_server.h"

namespace flexquant::gateway {

struct GatewayOptions {
  HttpServerOptions http;
  std::string server;  // "HOST:PORT" of flexquant.v1
  // How to reach it. With a token, that is who calls, whatever keys clients send; without, their keys are passed on.
  client::ConnectOptions connect;
  absl::Duration resume_for = absl::Seconds(30);  // Client::SetResumeFor
  std::vector<std::string> cors_origins;          // "*" = any; empty = browsers may call from the own page only
};

// OpenAI's API, the page and what it needs, in front of a server (docs/gateway.md). Thread-safe.
class Gateway {
 public:
  // Serves when it returns; the server need not be there yet. INVALID_ARGUMENT for bad options; UNAVAILABLE if the port
  // is taken; errors of Client::Connect and OpenTlsFiles.
  static absl::StatusOr<std::unique_ptr<Gateway>> Start(const GatewayOptions& options);
  virtual ~Gateway() = default;

  virtual int port() const = 0;
  // No new requests; running answers may end until `grace`, then they end with an error. Idempotent.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_GATEWAY_H_
