#include "common/stop_signals.h"

#include <thread>
#include <utility>

#include "spdlog/spdlog.h"

namespace flexquant {

sigset_t BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

void WaitForStopSignal(const sigset_t& signals, std::function<void(int)> on_second) {
  int signal = 0;
  sigwait(&signals, &signal);
  spdlog::info("draining; a second signal ends at once");
  std::thread([signals, on_second = std::move(on_second)] {
    int second = 0;
    sigwait(&signals, &second);
    on_second(second);
  }).detach();
}

}  // namespace flexquant
