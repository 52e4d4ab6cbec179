#ifndef FLEXQUANT_CONTROLLER_STEP_H_
#define FLEXQUANT_CONTROLLER_STEP_H_

// The executor protocol's steps in domain types.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/calibration/backend_loss.h"
#include "common/precision.h"
#include "controller/generation.h"

namespace flexquant::controller {

// What a sequence keeps for its whole life.
struct SequenceStart {
  SamplingValues sampling;
  uint32_t top_logprobs = 0;
  uint32_t prompt_tokens = 0;
  std::vector<uint32_t> cached_token_ids;  // of the positions that the first KV blocks hold already
};

// One sequence's part of a step.
struct SequenceStep {
  uint64_t sequence_id = 0;
  PrecisionPlan plan;
  std::optional<SequenceStart> start;  // in the first step only
  uint32_t position = 0;
  std::vector<uint32_t> token_ids;  // a prefill chunk; empty = decode
  bool sample = false;
  std::vector<uint32_t> new_kv_blocks;
  bool audit = false;
};

// One sequence's result.
struct SequenceResult {
  uint64_t sequence_id = 0;
  absl::Status status;
  std::optional<SampledToken> token;
  std::optional<double> audit_kl;  // nats
};

struct StepResult {
  uint64_t step_id = 0;
  absl::Duration queue_time;    // waited on the executor
  absl::Duration compute_time;  // audits included
  uint64_t weight_bytes_read = 0;
  std::vector<SequenceResult> sequences;
};

// What an executor said it is.
struct ExecutorDescription {
  std::string instance_id;
  std::string version;
  std::string device;
  uint32_t num_kv_blocks = 0;
  uint32_t kv_block_tokens = 0;
  uint32_t max_sequences = 0;
  uint32_t max_step_tokens = 0;
  bool audits = false;
  BackendSettings settings = {};
};

// What a controller expects of its executors.
struct ExpectedModel {
  std::string revision;
  int num_layer_groups = 0;
  bool has_reference = false;
  std::optional<BackendLoss> backend_loss = {};  // of a calibrated model
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_STEP_H_
