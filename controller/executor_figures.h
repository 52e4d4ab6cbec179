#ifndef FLEXQUANT_CONTROLLER_EXECUTOR_FIGURES_H_
#define FLEXQUANT_CONTROLLER_EXECUTOR_FIGURES_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "common/precision.h"

namespace flexquant::controller {

// What one executor's worker counts, for monitoring. Written by the worker, read by anybody; single numbers are right,
// several may be of different moments.
struct ExecutorFigures {
  using Number = std::atomic<uint64_t>;

  // Now.
  Number running{0};
  Number kv_blocks{0};
  Number kv_blocks_used{0};  // by running sequences
  // Since the controller's start.
  Number steps{0};
  Number step_tokens{0};    // computed, of prompts and answers
  Number losses{0};         // streams lost while the controller was not stopping
  Number moved{0};          // sequences that went back to the queue because of that, or of a shutdown
  Number preemptions{0};    // sequences that left for want of KV blocks
  Number prefix_tokens{0};  // of prompts that came here
  Number prefix_hits{0};    // of them, found in the cache
  Number weight_bytes{0};   // read, audits included
  Number audits{0};
  Number audit_kl_nnats{0};  // their KL together, in 1e-9 nats
  // Times together, in ns: making the step, on the wire both ways, waiting on the executor, computing.
  Number plan_ns{0};
  Number wire_ns{0};
  Number queue_ns{0};
  Number compute_ns{0};
  // Answer tokens by kind of layer group and bits.
  std::array<std::array<Number, kReferencePrecision + 1>, kLayerGroupKindNames.size()> group_tokens{};

  // Adds what has been counted since the start; not thread-safe with another writer.
  void AddCounts(const ExecutorFigures& other);
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_EXECUTOR_FIGURES_H_
