#include "client/gateway/http_server.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <climits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "spdlog/spdlog.h"
#include "transport/openssl_owned.h"

namespace flexquant::gateway {
namespace {

// Threads beside those of connections that are served: they turn others away.
constexpr size_t kExtraThreads = 4;
constexpr size_t kMaxKeptAlive = 1000000;
constexpr char kFull[] =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    "Content-Length: 126\r\n\r\n"
    R"({"error":{"message":"as many connections as there may be; try again","type":"server_error",)"
    R"("param":null,"code":"overloaded"}})"
    "\n";

thread_local Connection* current_connection = nullptr;

using BioPointer = transport::Owned<BIO>;

BioPointer Reader(const std::string& pem) {
  return BioPointer(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// The material has been checked (OpenTlsFiles).
std::shared_ptr<SSL_CTX> MakeContext(const transport::TlsMaterial& material) {
  const std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_server_method()), TlsDeleter());
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  const BioPointer chain = Reader(material.certificate_pem);
  bool first = true;
  while (X509* certificate = PEM_read_bio_X509(chain.get(), nullptr, nullptr, nullptr)) {
    if (std::exchange(first, false)) {
      SSL_CTX_use_certificate(context.get(), certificate);
      X509_free(certificate);
    } else {
      SSL_CTX_add_extra_chain_cert(context.get(), certificate);  // takes it
    }
  }
  const transport::Owned<EVP_PKEY> key(
      PEM_read_bio_PrivateKey(Reader(material.key_pem).get(), nullptr, nullptr, nullptr));
  SSL_CTX_use_PrivateKey(context.get(), key.get());
  if (!material.ca_pem.empty()) {
    const BioPointer authorities = Reader(material.ca_pem);
    while (X509* certificate = PEM_read_bio_X509(authorities.get(), nullptr, nullptr, nullptr)) {
      X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), certificate);
      SSL_CTX_add_client_CA(context.get(), certificate);
      X509_free(certificate);
    }
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  }
  ERR_clear_error();  // the end of each file is told as one
  return context;
}

// Of an address that CheckListenOptions passed.
std::pair<std::string, int> HostAndPort(const std::string& address) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  int port = 0;
  if (!absl::SimpleAtoi(address.substr(colon + 1), &port)) {
    port = 0;
  }
  return {host, port};
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Create(const HttpServerOptions& options) {
  FQ_RETURN_IF_ERROR(transport::CheckListenOptions(options.listen));
  if (options.listen.address.empty() || absl::StartsWith(options.listen.address, "unix:")) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot serve HTTP on '", options.listen.address, "'; give HOST:PORT"));
  }
  std::unique_ptr<HttpServer> server(new HttpServer(options));
  if (!options.listen.tls.empty()) {
    FQ_ASSIGN_OR_RETURN(server->tls_, transport::OpenTlsFiles(options.listen.tls, options.listen.reload_interval));
  }
  server->closing_ = eventfd(0, EFD_CLOEXEC);
  if (server->closing_ < 0) {
    return absl::ResourceExhaustedError("no file descriptors left to serve with; raise the limit (ulimit -n)");
  }
  // As the connections do it; cpp-httplib only says it to the client.
  server->set_keep_alive_timeout(absl::ToInt64Seconds(options.limits.idle_timeout));
  server->set_keep_alive_max_count(kMaxKeptAlive);
  server->set_payload_max_length(options.limits.max_request_bytes);
  // Two servers on one port would share its connections at random: cpp-httplib's default allows that.
  server->set_socket_options([](socket_t socket) {
    const int on = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  });
  server->new_task_queue = [threads = options.max_connections + kExtraThreads] {
    return new httplib::ThreadPool(threads);  // NOLINT(cppcoreguidelines-owning-memory): cpp-httplib takes it
  };
  return server;
}

HttpServer::~HttpServer() {
  Close();
  Abort();
  Join();
  if (closing_ >= 0) {
    close(closing_);
  }
}

absl::Status HttpServer::Listen() {
  const auto [host, port] = HostAndPort(options_.listen.address);
  if (port == 0) {
    port_ = bind_to_any_port(host);
  } else if (bind_to_port(host, port)) {
    port_ = port;
  }
  if (port_ <= 0) {
    return transport::CannotListenError(options_.listen.address);
  }
  // cpp-httplib's five places for connections to come are soon full: a client whose first packet is dropped tries again
  // after a second, then after three, seven and so on.
  ::listen(svr_sock_, SOMAXCONN);
  thread_ = std::thread([this] { listen_after_bind(); });
  while (!is_running()) {
    std::this_thread::yield();
  }
  return absl::OkStatus();
}

Connection* HttpServer::CurrentConnection() { return current_connection; }

void HttpServer::Close() {
  if (closing_ >= 0) {
    eventfd_write(closing_, 1);
  }
  // Not stop(): after it cpp-httplib leaves out the body of an answer whose head it has just sent. With its socket shut
  // down, accepting fails and the server ends once its connections have.
  if (port_ > 0 && !closed_.exchange(true)) {
    ::shutdown(svr_sock_, SHUT_RDWR);
  }
}

void HttpServer::Abort() {
  const std::lock_guard lock(sockets_mutex_);
  for (const int socket : sockets_) {
    ::shutdown(socket, SHUT_RDWR);
  }
}

void HttpServer::Join() {
  if (thread_.joinable()) {
    thread_.join();
  }
}

std::shared_ptr<SSL_CTX> HttpServer::TlsContext() {
  if (tls_ == nullptr) {
    return nullptr;
  }
  const std::shared_ptr<const transport::TlsMaterial> newest = tls_->Current();
  const std::lock_guard lock(context_mutex_);
  if (newest != context_source_) {
    context_ = MakeContext(*newest);
    context_source_ = newest;
  }
  return context_;
}

bool HttpServer::process_and_close_socket(socket_t socket) {
  const bool full = ++connections_ > options_.max_connections;
  if (full && tls_ == nullptr) {
    send(socket, kFull, sizeof(kFull) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  {
    const std::lock_guard lock(sockets_mutex_);
    sockets_.insert(socket);
  }
  {
    Connection connection(socket, TlsContext().get(), options_.limits);
    if (!full && connection.Handshake()) {
      current_connection = &connection;
      Serve(connection);
      current_connection = nullptr;
    }
    // Before it is closed: its number may become another connection's.
    const std::lock_guard lock(sockets_mutex_);
    sockets_.erase(socket);
  }
  --connections_;
  return true;
}

void HttpServer::Serve(Connection& connection) {
  bool closed = false;
  while (!closed && connection.WaitForRequest(closing_)) {
    pollfd closing = {closing_, POLLIN, 0};
    const bool last = poll(&closing, 1, 0) > 0;
    if (!process_request(connection, last, closed, nullptr)) {
      return;
    }
    closed = closed || last;
  }
}

}  // namespace flexquant::gateway
