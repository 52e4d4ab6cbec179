#ifndef FLEXQUANT_TRANSPORT_LISTEN_FLAGS_H_
#define FLEXQUANT_TRANSPORT_LISTEN_FLAGS_H_

#include "CLI/CLI.hpp"
#include "transport/server_credentials.h"

namespace flexquant::transport {

// Adds --listen, --tls-cert, --tls-key, --tls-client-ca, --allow-plaintext and --health-listen; the address in
// `options` is the default.
void AddListenFlags(CLI::App& app, ListenOptions& options);

}  // namespace flexquant::transport

#endif  // FLEXQUANT_TRANSPORT_LISTEN_FLAGS_H_
