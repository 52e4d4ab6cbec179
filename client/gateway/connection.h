#ifndef FLEXQUANT_CLIENT_GATEWAY_CONNECTION_H_
#define FLEXQUANT_CLIENT_GATEWAY_CONNECTION_H_

#include <httplib.h>
#include <openssl/ssl.h>

#include <array>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/time/time.h"

namespace flexquant::gateway {

// How long clients may take and how much they may send.
struct ConnectionLimits {
  size_t max_request_bytes = size_t{8} << 20U;         // headers included
  absl::Duration request_timeout = absl::Seconds(30);  // for a whole request, handshake included
  absl::Duration idle_timeout = absl::Seconds(60);     // between two requests
  absl::Duration write_timeout = absl::Seconds(30);    // without a byte that the client takes
};

struct TlsDeleter {
  void operator()(SSL* tls) const { SSL_free(tls); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};

// A client's connection, with TLS or without; closes its socket. cpp-httplib's own streams neither end a slow request
// nor tell their socket to whoever watches it. Used by one thread at a time.
class Connection final : public httplib::Stream {
 public:
  // Owns `socket`. `context`: null = without TLS.
  Connection(int socket, SSL_CTX* context, const ConnectionLimits& limits);
  ~Connection() override;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Whether the TLS handshake succeeded; true without TLS.
  bool Handshake();
  // There is no request after this one, whose body is not read: what is left of it must not be taken for one.
  void CloseAfterThis() { ended_ = true; }
  // Waits for the first byte of a request, or until `stop` is readable. False: none will come.
  bool WaitForRequest(int stop);

  // Sends what the client takes at once, and says how many bytes that was; -1 if it is gone. By another thread than its
  // own while that one waits.
  ssize_t TryWrite(const char* data, size_t size);

  bool is_readable() const override;
  bool is_writable() const override;
  ssize_t read(char* data, size_t size) override;
  ssize_t write(const char* data, size_t size) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  socket_t socket() const override { return socket_; }

 private:
  // Waits for `events` of poll(2).
  bool Wait(short events, absl::Time deadline) const;  // NOLINT(google-runtime-int): poll's type
  ssize_t Receive(char* data, size_t size);
  // Lets a client that is still sending read its answer: data that comes to a closed socket would take it away.
  void Linger();
  // Whether SSL_get_error says to try again, once that is possible.
  bool WaitForTls(int result, absl::Time deadline);

  const int socket_;
  const ConnectionLimits limits_;
  std::unique_ptr<SSL, TlsDeleter> tls_;  // null = without
  std::array<char, 4096> buffer_ = {};
  size_t buffer_begin_ = 0;
  size_t buffer_end_ = 0;
  absl::Time request_deadline_;
  size_t request_bytes_ = 0;
  bool ended_ = false;  // a request could not be read to its end
};

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_CONNECTION_H_
