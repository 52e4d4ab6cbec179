#ifndef FLEXQUANT_EXECUTOR_CALIBRATION_FORWARD_H_
#define FLEXQUANT_EXECUTOR_CALIBRATION_FORWARD_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/calibration/token_signals.h"
#include "common/precision.h"
#include "common/store/model_store.h"
#include "executor/cpu_model_runner.h"

namespace flexquant::executor {

// What the top precision says of one position.
struct TopPosition {
  TokenSignals signals;
  double nll_nats = 0;  // -log p(the token that follows)
};

// How a plan's distribution at one position differs from the top precision's.
struct PositionDivergence {
  double kl_nats = 0;  // KL(top || plan), from the full logits
  double nll_nats = 0;
  bool top1_agrees = false;  // the most likely token is the same
};

// Compares plans with the top precision on windows of text, all positions of a window at once. The top pass keeps the
// hidden state in front of every block, so that a plan costs only the blocks from its first lower width on and the
// head. Deterministic, whatever the number of threads. Holds one window: its hidden states, and its top logits twice
// over (the plan's beside them). Not thread-safe.
class CalibrationForward {
 public:
  struct Options {
    int num_threads = 0;  // as in CpuRunnerOptions
    std::string isa;
    int64_t max_positions = 512;  // of a window, in [1, the model's context]
    bool rescore = true;          // as in CpuRunnerOptions, and the next
    bool mapped_weights = false;
    // Polled before every block; true ends a pass with CANCELLED. May be empty.
    std::function<bool()> cancelled;
  };

  // `store` must outlive this. Errors of CpuModelRunner::Create.
  static absl::StatusOr<std::unique_ptr<CalibrationForward>> Create(const ModelStore& store, Options options);

  // Makes `tokens` the window: the first [positions] are read, each predicts the one behind it. 2 to max_positions + 1
  // tokens. After an error there is no window.
  absl::Status SetWindow(absl::Span<const uint32_t> tokens);
  // One entry a position; empty if there is no window.
  const std::vector<TopPosition>& top() const { return top_; }

  // Of every position under `plan`, in order. FAILED_PRECONDITION without a window.
  absl::StatusOr<std::vector<PositionDivergence>> Measure(const PrecisionPlan& plan);
  // The same at the top precision with 8-bit keys and values, and with 8-bit activations in the window's first half,
  // of the positions behind it. Empty if the model's heads are too large for the former.
  absl::StatusOr<std::vector<PositionDivergence>> MeasureKvCache8();
  absl::StatusOr<std::vector<PositionDivergence>> MeasureCoarsePrompts();

 private:
  CalibrationForward(const ModelStore& store, Options options, std::unique_ptr<CpuModelRunner> runner,
                     std::unique_ptr<CpuModelRunner> kv_8_runner);
  // FAILED_PRECONDITION without a window.
  absl::Status CheckWindow() const;
  // The window through `runner`, its first `prompt_tokens` as a prompt.
  absl::Status Run(CpuModelRunner& runner, const PrecisionPlan& plan, size_t prompt_tokens, const PassStart& start,
                   BlockObserver keep, StepOutput* output);
  // The same beside the top precision, of the positions behind the prompt.
  absl::StatusOr<std::vector<PositionDivergence>> Compare(CpuModelRunner& runner, const PrecisionPlan& plan,
                                                          size_t prompt_tokens, const PassStart& start);
  // First block of which `plan` lowers a layer group; num_layers if only the head is lowered or nothing.
  int64_t FirstLoweredBlock(const PrecisionPlan& plan) const;
  absl::Span<const float> Hidden(int64_t block) const;  // [positions, hidden_size]

  const ModelStore& store_;
  const Options options_;
  const std::unique_ptr<CpuModelRunner> runner_;
  const std::unique_ptr<CpuModelRunner> kv_8_runner_;  // null if the model's heads are too large
  const PrecisionPlan top_plan_;
  std::vector<uint32_t> block_table_;

  std::vector<uint32_t> tokens_;       // [positions + 1]
  std::vector<float> hidden_;          // [num_layers + 1, positions, hidden_size]
  std::vector<float> top_logits_;      // [positions, vocab]
  std::vector<LogitStats> top_stats_;  // [positions]
  std::vector<TopPosition> top_;       // [positions]
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CALIBRATION_FORWARD_H_
