#ifndef FLEXQUANT_CLIENT_GATEWAY_DISCONNECT_WATCH_H_
#define FLEXQUANT_CLIENT_GATEWAY_DISCONNECT_WATCH_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/status/statusor.h"

namespace flexquant::gateway {

// One thread that tells when clients are gone: whoever waits for a server's next token does not look at its client's
// socket. A client that has closed only its own direction counts as gone too. Thread-safe.
class DisconnectWatch {
 public:
  // RESOURCE_EXHAUSTED if the system has no file descriptors left.
  static absl::StatusOr<std::unique_ptr<DisconnectWatch>> Start();
  ~DisconnectWatch();
  DisconnectWatch(const DisconnectWatch&) = delete;
  DisconnectWatch& operator=(const DisconnectWatch&) = delete;

  // Calls `gone` from the watch's thread, once, when the peer of `socket` is gone, from now until Remove, which waits
  // for a call in progress. `gone` must return at once and not call back. A socket may be added once at a time.
  void Add(int socket, std::function<void()> gone);
  void Remove(int socket);

 private:
  DisconnectWatch(int epoll, int wakeup) : epoll_(epoll), wakeup_(wakeup) {}
  void Run();

  const int epoll_;
  const int wakeup_;  // eventfd: the watch ends
  std::mutex mutex_;
  std::map<int, std::function<void()>> watched_;
  std::thread thread_;
};

}  // namespace flexquant::gateway

#endif  // FLEXQUANT_CLIENT_GATEWAY_DISCONNECT_WATCH_H_
