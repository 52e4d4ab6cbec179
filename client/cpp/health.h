#ifndef FLEXQUANT_CLIENT_CPP_HEALTH_H_
#define FLEXQUANT_CLIENT_CPP_HEALTH_H_

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "client/cpp/client.h"

namespace flexquant::client {

// Watches grpc.health.v1 for `service` until it is SERVING. Reconnects and watches again while the server is away. OK,
// DEADLINE_EXCEEDED with what was seen last, CANCELLED, or UNIMPLEMENTED if the server offers no health service.
absl::Status WaitUntilServing(const std::shared_ptr<grpc::Channel>& channel, absl::string_view service,
                              const CallOptions& options);

}  // namespace flexquant::client

#endif  // FLEXQUANT_CLIENT_CPP_HEALTH_H_
