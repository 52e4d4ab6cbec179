#include "transport/listen_flags.h"

namespace flexquant::transport {

void AddListenFlags(CLI::App& app, ListenOptions& options) {
  app.add_option("--listen", options.address, "Address to serve on, HOST:PORT; port 0 takes any free one")
      ->capture_default_str();
  auto* certificate = app.add_option("--tls-cert", options.tls.certificate,
                                     "PEM file of the server's certificate and its chain: serve with TLS; this and the "
                                     "other TLS files are read again when they change");
  auto* key = app.add_option("--tls-key", options.tls.key, "PEM file of its key, without a passphrase");
  certificate->needs(key);
  key->needs(certificate);
  app.add_option("--tls-client-ca", options.tls.ca,
                 "PEM file of authorities: clients must show a certificate of one of them")
      ->needs(certificate);
  app.add_flag("--allow-plaintext", options.allow_plaintext,
               "Serve without TLS where others can connect too: only on a network that is safe by itself")
      ->excludes(certificate);
}

void AddHealthListenFlag(CLI::App& app, ListenOptions& options) {
  app.add_option("--health-listen", options.health_address,
                 "HOST:PORT to answer grpc.health.v1 on too, and nothing else, without TLS: for probes that have no "
                 "certificate");
}

}  // namespace flexquant::transport
