#include "client/gateway/connection.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/time/clock.h"

namespace flexquant::gateway {
namespace {

constexpr int kSendBufferBytes = 128 << 10;

using NameFunction = int (*)(int, sockaddr*, socklen_t*);

void NumericName(NameFunction function, int socket, std::string& ip, int& port) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  std::array<char, INET6_ADDRSTRLEN> text = {};
  if (function(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return;
  }
  if (address.ss_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address);
    inet_ntop(AF_INET, &v4->sin_addr, text.data(), text.size());
    port = ntohs(v4->sin_port);
  } else if (address.ss_family == AF_INET6) {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address);
    inet_ntop(AF_INET6, &v6->sin6_addr, text.data(), text.size());
    port = ntohs(v6->sin6_port);
  }
  ip = text.data();
}

int MillisecondsUntil(absl::Time deadline) {
  const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
  return static_cast<int>(std::clamp<int64_t>(left, 0, 1'000'000));
}

}  // namespace

Connection::Connection(int socket, SSL_CTX* context, const ConnectionLimits& limits)
    : socket_(socket), limits_(limits), request_deadline_(absl::Now() + limits.request_timeout) {
  fcntl(socket_, F_SETFL, fcntl(socket_, F_GETFL, 0) | O_NONBLOCK);
  const int on = 1;
  setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));  // a token is not worth waiting for the next one
  // The system would let it grow to several MB for each client that does not read.
  setsockopt(socket_, SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof(kSendBufferBytes));
  if (context != nullptr) {
    tls_.reset(SSL_new(context));
    SSL_set_fd(tls_.get(), socket_);
    SSL_set_mode(tls_.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  }
}

Connection::~Connection() {
  if (tls_ != nullptr) {
    SSL_shutdown(tls_.get());
  }
  ::shutdown(socket_, SHUT_WR);
  if (ended_) {
    Linger();
  }
  close(socket_);
}

void Connection::Linger() {
  constexpr absl::Duration kTime = absl::Seconds(1);
  const absl::Time deadline = absl::Now() + kTime;
  while (Wait(POLLIN, deadline) && recv(socket_, buffer_.data(), buffer_.size(), 0) > 0) {
  }
}

bool Connection::Wait(short events, absl::Time deadline) const {  // NOLINT(google-runtime-int): poll's type
  while (true) {
    pollfd waiting = {socket_, events, 0};
    const int ready = poll(&waiting, 1, MillisecondsUntil(deadline));
    if (ready > 0) {
      return true;
    }
    if ((ready < 0 && errno != EINTR) || absl::Now() >= deadline) {
      return false;
    }
  }
}

bool Connection::WaitForTls(int result, absl::Time deadline) {
  const int error = SSL_get_error(tls_.get(), result);
  if (error == SSL_ERROR_WANT_READ) {
    return Wait(POLLIN, deadline);
  }
  return error == SSL_ERROR_WANT_WRITE && Wait(POLLOUT, deadline);
}

bool Connection::Handshake() {
  while (tls_ != nullptr) {
    ERR_clear_error();
    const int result = SSL_accept(tls_.get());
    if (result == 1) {
      break;
    }
    if (!WaitForTls(result, request_deadline_)) {
      return false;
    }
  }
  return true;
}

bool Connection::WaitForRequest(int stop) {
  if (ended_) {
    return false;
  }
  const absl::Time deadline = absl::Now() + limits_.idle_timeout;
  bool ready = buffer_begin_ < buffer_end_ || (tls_ != nullptr && SSL_pending(tls_.get()) > 0);
  while (!ready) {
    std::array<pollfd, 2> waiting = {pollfd{socket_, POLLIN, 0}, pollfd{stop, POLLIN, 0}};
    const int count = poll(waiting.data(), waiting.size(), MillisecondsUntil(deadline));
    if ((count < 0 && errno != EINTR) || (count == 0 && absl::Now() >= deadline)) {
      return false;
    }
    ready = count > 0 && waiting[0].revents != 0;
    if (!ready && count > 0 && waiting[1].revents != 0) {
      return false;
    }
  }
  request_deadline_ = absl::Now() + limits_.request_timeout;
  request_bytes_ = 0;
  return true;
}

bool Connection::is_readable() const { return buffer_begin_ < buffer_end_ || Wait(POLLIN, request_deadline_); }

// Whether the client takes what it is sent turns out when it is sent.
bool Connection::is_writable() const { return true; }

ssize_t Connection::Receive(char* data, size_t size) {
  while (true) {
    if (tls_ != nullptr) {
      ERR_clear_error();
      const int result = SSL_read(tls_.get(), data, static_cast<int>(std::min<size_t>(size, 1U << 20U)));
      if (result > 0) {
        return result;
      }
      if (!WaitForTls(result, request_deadline_)) {
        return SSL_get_error(tls_.get(), result) == SSL_ERROR_ZERO_RETURN ? 0 : -1;
      }
      continue;
    }
    const ssize_t result = recv(socket_, data, size, 0);
    if (result >= 0) {
      return result;
    }
    if (errno != EINTR && (errno != EAGAIN || !Wait(POLLIN, request_deadline_))) {
      return -1;
    }
  }
}

ssize_t Connection::read(char* data, size_t size) {
  if (buffer_begin_ == buffer_end_) {
    const ssize_t received = request_bytes_ < limits_.max_request_bytes ? Receive(buffer_.data(), buffer_.size()) : -1;
    if (received <= 0) {
      ended_ = true;
      return received;
    }
    request_bytes_ += static_cast<size_t>(received);
    buffer_begin_ = 0;
    buffer_end_ = static_cast<size_t>(received);
  }
  const size_t count = std::min(size, buffer_end_ - buffer_begin_);
  std::memcpy(data, buffer_.data() + buffer_begin_, count);
  buffer_begin_ += count;
  return static_cast<ssize_t>(count);
}

ssize_t Connection::TryWrite(const char* data, size_t size) {
  if (tls_ != nullptr) {
    ERR_clear_error();
    const int result = SSL_write(tls_.get(), data, static_cast<int>(std::min<size_t>(size, 1U << 20U)));
    if (result > 0) {
      return result;
    }
    const int error = SSL_get_error(tls_.get(), result);
    return error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ ? 0 : -1;
  }
  const ssize_t result = send(socket_, data, size, MSG_NOSIGNAL);
  if (result >= 0) {
    return result;
  }
  return errno == EAGAIN || errno == EINTR ? 0 : -1;
}

ssize_t Connection::write(const char* data, size_t size) {
  const absl::Time deadline = absl::Now() + limits_.write_timeout;
  while (true) {
    if (tls_ != nullptr) {
      ERR_clear_error();
      const int result = SSL_write(tls_.get(), data, static_cast<int>(std::min<size_t>(size, 1U << 20U)));
      if (result > 0) {
        return result;
      }
      if (!WaitForTls(result, deadline)) {
        return -1;
      }
      continue;
    }
    const ssize_t result = send(socket_, data, size, MSG_NOSIGNAL);
    if (result >= 0) {
      return result;
    }
    if (errno != EINTR && (errno != EAGAIN || !Wait(POLLOUT, deadline))) {
      return -1;
    }
  }
}

void Connection::get_remote_ip_and_port(std::string& ip, int& port) const {
  NumericName(getpeername, socket_, ip, port);
}

void Connection::get_local_ip_and_port(std::string& ip, int& port) const {
  NumericName(getsockname, socket_, ip, port);
}

}  // namespace flexquant::gateway
