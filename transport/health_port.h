#ifndef FLEXQUANT_TRANSPORT_HEALTH_PORT_H_
#define FLEXQUANT_TRANSPORT_HEALTH_PORT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/server.h"

namespace flexquant::transport {

// A port that answers grpc.health.v1 and nothing else, in plaintext: for probes that have neither a certificate nor
// TLS, such as a kubelet's, beside a port that asks for both. Thread-safe.
class HealthPort {
 public:
  // "HOST:PORT" (port 0 = any free one). INVALID_ARGUMENT if it is not that; UNAVAILABLE if the port is taken.
  static absl::StatusOr<std::unique_ptr<HealthPort>> Open(const std::string& address);
  ~HealthPort();

  int port() const { return port_; }
  // What it says of `service`; unknown ones are SERVICE_UNKNOWN.
  void Set(const std::string& service, bool serving);

 private:
  HealthPort() = default;

  int port_ = 0;
  grpc::CallbackGenericService no_methods_;  // gRPC builds no server that has nothing but health
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace flexquant::transport

#endif  // FLEXQUANT_TRANSPORT_HEALTH_PORT_H_
