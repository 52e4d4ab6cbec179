#ifndef FLEXQUANT_COMMON_STOP_SIGNALS_H_
#define FLEXQUANT_COMMON_STOP_SIGNALS_H_

#include <csignal>
#include <functional>

namespace flexquant {

// SIGTERM and SIGINT, blocked in this thread and those it starts: call it before any thread exists, so that only
// WaitForStopSignal sees them.
sigset_t BlockStopSignals();

// Returns when one of `signals` comes, to drain, which it logs; a second one calls `on_second` with its number from a
// thread of its own, which should end the process at once.
void WaitForStopSignal(const sigset_t& signals, std::function<void(int)> on_second);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_STOP_SIGNALS_H_
