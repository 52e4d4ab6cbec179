#include "client/gateway/disconnect_watch.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

namespace flexquant::gateway {

absl::StatusOr<std::unique_ptr<DisconnectWatch>> DisconnectWatch::Start() {
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  const int wakeup = eventfd(0, EFD_CLOEXEC);
  std::unique_ptr<DisconnectWatch> watch(new DisconnectWatch(epoll, wakeup));
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = wakeup;
  if (epoll < 0 || wakeup < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, wakeup, &event) != 0) {
    return absl::ResourceExhaustedError("no file descriptors left to watch clients with; raise the limit (ulimit -n)");
  }
  watch->thread_ = std::thread([self = watch.get()] { self->Run(); });
  return watch;
}

DisconnectWatch::~DisconnectWatch() {
  if (thread_.joinable()) {
    eventfd_write(wakeup_, 1);
    thread_.join();
  }
  for (const int fd : {epoll_, wakeup_}) {
    if (fd >= 0) {
      close(fd);
    }
  }
}

void DisconnectWatch::Add(int socket, std::function<void()> gone) {
  const std::lock_guard lock(mutex_);
  watched_[socket] = std::move(gone);
  epoll_event event = {};
  event.events = EPOLLRDHUP | EPOLLONESHOT;
  event.data.fd = socket;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, socket, &event);
}

void DisconnectWatch::Remove(int socket) {
  const std::lock_guard lock(mutex_);
  watched_.erase(socket);
  epoll_ctl(epoll_, EPOLL_CTL_DEL, socket, nullptr);
}

void DisconnectWatch::Run() {
  std::array<epoll_event, 64> events = {};
  while (true) {
    const int count = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), -1);
    if (count < 0 && errno != EINTR) {
      return;
    }
    for (int i = 0; i < count; ++i) {
      const int socket = events[static_cast<size_t>(i)].data.fd;
      if (socket == wakeup_) {
        return;
      }
      const std::lock_guard lock(mutex_);
      // An event that was on its way when the socket was removed finds nobody.
      if (const auto found = watched_.find(socket); found != watched_.end()) {
        found->second();
      }
    }
  }
}

}  // namespace flexquant::gateway
