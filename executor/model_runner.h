#ifndef FLEXQUANT_EXECUTOR_MODEL_RUNNER_H_
#define FLEXQUANT_EXECUTOR_MODEL_RUNNER_H_

// The backend of an executor: weights, KV cache and sampling behind one call a step. A backend computes every sequence
// exactly at its own plan; its results do not depend on the other sequences of the step, on how a prompt is cut into
// steps, or on how the backend splits its work.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/calibration/backend_loss.h"
#include "common/precision.h"
#include "kernels/sampling.h"

namespace flexquant::executor {

// How to draw the token after a sequence's last token of the step.
struct SampleSpec {
  const SamplingConfig* config = nullptr;
  const TokenCounts* counts = nullptr;  // tokens up to and including this step's
  uint64_t draw = 0;                    // index of the token in the answer
  uint32_t top_logprobs = 0;
};

// One sequence's part of a step. Pointers and spans live until RunStep returns.
struct SequenceInput {
  absl::Span<const uint32_t> tokens;  // at least one; < vocab_size
  int64_t start = 0;                  // position of the first token; positions before it are in the KV cache
  const PrecisionPlan* plan = nullptr;
  absl::Span<const uint32_t> block_table;    // KV block of position p is block_table[p / kv_block_tokens]
  int64_t prompt_tokens = 0;                 // so many of the first are a prompt's, which some backends compute coarser
  std::optional<SampleSpec> sample;          // draw a token after the last one
  int64_t num_logits = 0;                    // return the logits of this many trailing positions
  absl::Span<const uint32_t> score_targets;  // empty, or one a token: return log p(target | tokens up to this one)

  // Trailing positions whose logits the step has to compute: for scores, logits or a draw.
  int64_t NumHeadRows() const;
};

struct StepBatch {
  std::vector<SequenceInput> sequences;
};

struct SequenceOutput {
  absl::Status status;                // INTERNAL if the logits are not finite; nothing else is set then
  std::optional<SampledToken> token;  // if asked for
  absl::Span<const float> logits;     // [num_logits, vocab_size], valid until the next RunStep
  std::vector<float> scores;          // [tokens], natural log-probabilities, if asked for
};

struct StepOutput {
  std::vector<SequenceOutput> sequences;  // in the batch's order
  uint64_t weight_bytes_read = 0;         // planes and scales of the layer groups, once for each width used
};

// What a backend offers; constant.
struct RunnerInfo {
  std::string device;  // for people: "cpu avx512vnni, 2 threads"
  int num_layer_groups = 0;
  bool has_reference = false;  // plans of 16 bits are allowed
  int64_t vocab_size = 0;
  int64_t max_context = 0;  // tokens
  uint32_t kv_blocks = 0;
  uint32_t kv_block_tokens = 0;
  uint32_t max_sequences = 0;    // a step
  uint32_t max_step_tokens = 0;  // a step
  bool audits = false;           // a position may be computed again, and the last time counts
  BackendSettings settings;      // coarse_prompts: SequenceInput::prompt_tokens changes results
};

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;

  virtual const RunnerInfo& info() const = 0;
  // One forward pass. INVALID_ARGUMENT, before anything is written, names what is out of range. Not thread-safe.
  virtual absl::Status RunStep(const StepBatch& batch, StepOutput* output) = 0;
  // Not OK once the backend cannot go on: its device failed. Thread-safe.
  virtual absl::Status Health() const { return absl::OkStatus(); }
};

// INTERNAL: what SequenceOutput::status says of logits that are not finite.
absl::Status LogitsNotFiniteError();

// The checks every backend makes before a step; INVALID_ARGUMENT.
absl::Status ValidateBatch(const StepBatch& batch, const RunnerInfo& info);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_MODEL_RUNNER_H_
