#include "client/cli/interrupt.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <mutex>
#include <thread>
#include <utility>

#include "common/check.h"

namespace flexquant::cli {
namespace {

struct State {
  std::mutex mutex;
  int signal = 0;
  std::function<void()> action;
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
};

// Never destroyed: the watcher outlives main.
State& GetState() {
  static auto* state = new State;
  return *state;
}

void Watch(sigset_t signals) {
  State& state = GetState();
  while (true) {
    int signal = 0;
    if (sigwait(&signals, &signal) != 0) {
      continue;
    }
    std::unique_lock lock(state.mutex);
    if (state.signal != 0) {
      // Die of the signal itself, so that a shell sees it.
      std::signal(signal, SIG_DFL);
      sigset_t one;
      sigemptyset(&one);
      sigaddset(&one, signal);
      pthread_sigmask(SIG_UNBLOCK, &one, nullptr);
      lock.unlock();
      raise(signal);
      continue;
    }
    state.signal = signal;
    const uint64_t count = 1;
    FQ_CHECK(write(state.fd, &count, sizeof count) == sizeof count);
    if (state.action) {
      state.action();
    }
  }
}

}  // namespace

void Interrupt::Install() {
  FQ_CHECK(GetState().fd >= 0);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread(Watch, signals).detach();
}

int Interrupt::Signal() {
  const std::lock_guard lock(GetState().mutex);
  return GetState().signal;
}

bool Interrupt::Requested() { return Signal() != 0; }

absl::Status Interrupt::Check() { return Requested() ? absl::CancelledError("stopped on request") : absl::OkStatus(); }

int Interrupt::Fd() { return GetState().fd; }

void Interrupt::Reset() {
  State& state = GetState();
  const std::lock_guard lock(state.mutex);
  state.signal = 0;
  uint64_t count = 0;
  // Fails only when nothing is there to be read.
  [[maybe_unused]] const ssize_t size = read(state.fd, &count, sizeof count);
}

Interrupt::Action::Action(std::function<void()> action) {
  State& state = GetState();
  const std::lock_guard lock(state.mutex);
  FQ_CHECK(!state.action);
  state.action = std::move(action);
  if (state.signal != 0) {
    state.action();
  }
}

Interrupt::Action::~Action() {
  State& state = GetState();
  const std::lock_guard lock(state.mutex);
  state.action = nullptr;
}

}  // namespace flexquant::cli
