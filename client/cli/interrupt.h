#ifndef FLEXQUANT_CLIENT_CLI_INTERRUPT_H_
#define FLEXQUANT_CLIENT_CLI_INTERRUPT_H_

#include <functional>

#include "absl/status/status.h"

namespace flexquant::cli {

// Ctrl-C (SIGINT) and SIGTERM: the first asks the command to stop, the second ends the process at once.
// One a process. Thread-safe.
class Interrupt {
 public:
  // Blocks both signals in this thread and those it starts, and watches for them. Call first in main.
  static void Install();

  static bool Requested();
  // Signal that asked; 0 = none.
  static int Signal();
  // CANCELLED if asked to stop, else OK.
  static absl::Status Check();
  // Readable once asked to stop; for poll.
  static int Fd();
  // Forgets the request, so that the next one is a first one again.
  static void Reset();

  // Calls `action` from another thread when asked to stop (at once if it already was), while this lives. Not nested.
  class Action {
   public:
    explicit Action(std::function<void()> action);
    ~Action();
    Action(const Action&) = delete;
    Action& operator=(const Action&) = delete;
  };
};

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_INTERRUPT_H_
