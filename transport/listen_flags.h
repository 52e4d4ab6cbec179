#ifndef FLEXQUANT_TRANSPORT_LISTEN_FLAGS_H_
#define FLEXQUANT_TRANSPORT_LISTEN_FLAGS_H_

#include "CLI/CLI.hpp"
#include "transport/server_credentials.h"

namespace flexquant::transport {

// Adds --listen, --tls-cert, --tls-key, --tls-client-ca and --allow-plaintext; the address in `options` is the default.
void AddListenFlags(CLI::App& app, ListenOptions& options);
// Adds --health-listen, for servers of gRPC.
void AddHealthListenFlag(CLI::App& app, ListenOptions& options);

}  // namespace flexquant::transport

#endif  // FLEXQUANT_TRANSPORT_LISTEN_FLAGS_H_
