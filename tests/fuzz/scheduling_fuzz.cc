// The controller's state machine without a network, against executors that may lie. The input is a byte string of
// operations: submit, cancel, time, a client that does not read, rounds of the workers, results that are held back or
// falsified, executors that are lost or drain. Honest executors are real sessions on a HashRunner, through the
// protocol's messages, so both sides of the protocol are checked against each other, and every token of an answer
// against the prompt and the tokens before it, whatever moved, was shared or was computed twice. At the end everything
// is let go: every request must end once and no KV block may be missing.

#include <cstdint>
#include <memory>

#include "common/check.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/scheduled_world.h"

namespace flexquant::fuzz {
namespace {

constexpr int kMaxOperations = 200;

FQ_FUZZ_TARGET(scheduling, input) {
  FuzzInput bytes(input);
  ScheduledWorld world(bytes);
  for (int i = 0; i < kMaxOperations && !bytes.empty(); ++i) {
    const uint8_t operation = bytes.Byte();
    const uint32_t executor = (operation >> 4U) % 2U;
    switch (operation % 16U) {
      case 0:
      case 1:
      case 2:
        world.Submit(bytes);
        break;
      case 3:
        world.Cancel(bytes.Byte());
        break;
      case 4:
        world.SetCongested(bytes.Byte(), bytes.Flag());
        break;
      case 5:
        world.PassTime(absl::Milliseconds(100 * bytes.Byte()));
        break;
      case 6:
        world.Lose(executor);
        break;
      case 7:
        world.Drain(executor);
        break;
      case 8:
        world.Falsify(executor, bytes);
        break;
      default:
        world.Round(executor, bytes.Small(0, 3));
    }
  }
  world.FinishAll();
}

}  // namespace
}  // namespace flexquant::fuzz
