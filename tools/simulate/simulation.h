#ifndef FLEXQUANT_TOOLS_SIMULATE_SIMULATION_H_
#define FLEXQUANT_TOOLS_SIMULATE_SIMULATION_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cli/load/trace.h"
#include "controller/model_package.h"
#include "controller/request_queue.h"
#include "controller/worker_options.h"
#include "flexquant/v1/precision.pb.h"
#include "tools/simulate/cost_model.h"

namespace flexquant::simulate {

// An executor and what it says of itself.
struct ExecutorSpec {
  CostModel cost;
  uint32_t kv_blocks = 4096;
  uint32_t kv_block_tokens = 16;
  uint32_t max_sequences = 64;
  uint32_t max_step_tokens = 8192;
};

// What comes: the trace's requests over and over until there are `requests`.
struct Arrivals {
  std::vector<cli::TraceRequest> trace;  // not empty
  size_t requests = 1;
  double time_scale = 1;  // of the trace's arrivals
  double rate = 0;        // > 0: requests a second on average, in place of time_scale
  double token_scale = 1;
  uint32_t max_prompt_tokens = 1024;
  uint32_t max_answer_tokens = 256;
  uint64_t seed = 1;
};

struct SimulationOptions {
  std::vector<ExecutorSpec> executors;  // not empty
  controller::QueueOptions queue;
  controller::WorkerOptions worker;
  absl::Duration round_trip = absl::Microseconds(200);  // of a message to an executor and back
  v1::PrecisionPolicy policy;
  bool isolated = false;
};

struct ExecutorOutcome {
  uint64_t steps = 0;
  uint64_t answers = 0;    // begun here, moved ones included
  double utilisation = 0;  // share of the time until the last arrival that it computed
};

struct SimulationResult {
  // Of the answers that ended well, in order of their ends: ms, of the simulated clock.
  std::vector<float> ttft_ms;
  std::vector<float> tpot_ms;                // -1: only one token
  std::map<std::string, uint64_t> failures;  // by status code
  double arrival_seconds = 0;                // until the last arrival
  double seconds = 0;                        // until the last end
  uint64_t tokens = 0;                       // of answers
  uint64_t prompt_tokens = 0;
  uint64_t cached_tokens = 0;  // of prompts, found in executors' caches
  uint64_t preemptions = 0;
  std::vector<ExecutorOutcome> executors;
  uint64_t steps = 0;
  // CPU time, really taken: of the workers' rounds, and of taking requests in.
  double rounds_cpu_seconds = 0;
  double submit_cpu_seconds = 0;
};

// Runs the controller's queue, balancer and workers' rounds with simulated executors on a simulated clock. What differs
// from a server: one thread, no protocol messages and no clients. INVALID_ARGUMENT for a bad policy.
absl::StatusOr<SimulationResult> Simulate(const controller::ModelPackage& model, const SimulationOptions& options,
                                          const Arrivals& arrivals);

}  // namespace flexquant::simulate

#endif  // FLEXQUANT_TOOLS_SIMULATE_SIMULATION_H_
