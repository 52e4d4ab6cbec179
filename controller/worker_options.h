#ifndef FLEXQUANT_CONTROLLER_WORKER_OPTIONS_H_
#define FLEXQUANT_CONTROLLER_WORKER_OPTIONS_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace flexquant::controller {

class LayerGroups;

struct WorkerOptions {
  std::string controller_id;  // the same for all workers of a controller, and another one in each of its lives
  int lookahead = 1;
  uint32_t prefill_chunk_tokens = 256;
  // What steps cost is learned with these sizes, which must outlive all; null = it is not learned.
  const LayerGroups* groups = nullptr;
  absl::Duration max_step_time = absl::Milliseconds(50);  // BatchLimits'
  double audit_rate = 0;  // share of the decode steps of policies that predict KL, in [0, 1]
  absl::Duration connect_timeout = absl::Seconds(5);
  absl::Duration min_backoff = absl::Milliseconds(50);
  absl::Duration max_backoff = absl::Seconds(2);
  // An executor that owes a step's result for longer counts as dead.
  absl::Duration step_timeout = absl::Minutes(1);
  // A request that loses this many executors in a row without a new token in between fails: it may be what kills them.
  int max_losses = 3;
  // A stream whose client reads nothing for so long ends.
  absl::Duration slow_reader_timeout = absl::Seconds(30);
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_WORKER_OPTIONS_H_
