#ifndef FLEXQUANT_CLIENT_GATEWAY_HTTP_SERVER_H_
#define FLEXQUANT_CLIENT_GATEWAY_HTTP_SERVER_H_

#include <httplib.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/gateway/connection.h"
#include "transport/server_credentials.h"
#include "transport/tls_files.h"

namespace flexquant::gateway {

struct HttpServerOptions {
  transport::ListenOptions listen;
  size_t max_connections = 256;  // each has a thread; those beyond are answered 503 and closed
  ConnectionLimits limits;
};

// cpp-httplib's parser and router over connections of our own: TLS files that are read again when they change, limits
// on slow clients, the socket of a request for those who watch it, and an end that waits for running answers. Routes
// are set before Listen.
class HttpServer : public httplib::Server {
 public:
  // INVALID_ARGUMENT for bad options; errors of OpenTlsFiles.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Create(const HttpServerOptions& options);
  ~HttpServer() override;

  // Binds and serves from threads of its own. UNAVAILABLE if the port is taken (names it).
  absl::Status Listen();
  int port() const { return port_; }
  // The connection of the request that this thread handles; null if it handles none.
  static Connection* CurrentConnection();

  // No new connections and, on those there are, no further requests; Join waits for those that run.
  void Close();
  // Ends the connections whose clients do not read.
  void Abort();
  void Join();

 private:
  explicit HttpServer(const HttpServerOptions& options) : options_(options) {}

  bool process_and_close_socket(socket_t socket) override;
  void Serve(Connection& connection);
  // Of the newest files; null = without TLS.
  std::shared_ptr<SSL_CTX> TlsContext();

  const HttpServerOptions options_;
  int port_ = 0;
  std::atomic<bool> closed_{false};
  int closing_ = -1;  // eventfd: readable once there are no further requests
  std::thread thread_;
  std::atomic<size_t> connections_{0};
  std::mutex sockets_mutex_;
  std::set<int> sockets_;
  std::shared_ptr<transport::Reloaded<transport::TlsMaterial>> tls_;  // null = without
  std::mutex context_mutex_;
  std::shared_ptr<const transport::TlsMaterial> context_source_;
  std::shared_ptr<SSL_CTX> context_;
};

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_HTTP_SERVER_H_
