#ifndef FLEXQUANT_EXECUTOR_CALIBRATE_H_
#define FLEXQUANT_EXECUTOR_CALIBRATE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/calibration/calibration.h"
#include "common/calibration/calibration_progress.h"
#include "common/calibration/requirement_builder.h"
#include "common/store/model_store.h"

namespace flexquant::executor {

// Windows of text, each of at least two tokens: the last one is only predicted.
struct CalibrationWindows {
  std::vector<std::vector<uint32_t>> sensitivity;  // at least one
  std::vector<std::vector<uint32_t>> holdout;      // at least two, of four tokens or more; of other text
};

struct CalibrateOptions {
  int num_rungs = 16;   // wanted, >= 2; fewer if the model has fewer plans or rungs turn out not to pay
  int num_threads = 0;  // as in CpuRunnerOptions
  std::string isa;
  bool rescore = true;  // as in CpuRunnerOptions, and the next
  bool mapped_weights = false;
  // Work done and in all, in billions of multiply-accumulates, and what is being measured. Calling thread; may be
  // empty.
  std::function<void(uint64_t done, uint64_t total, const std::string& what)> progress;
  // Polled often; true ends with CANCELLED. May be empty.
  std::function<bool()> cancelled;
  // Called when a unit of work is done: a block (or the head) on one window, or all rungs on one held-back window. Its
  // error ends the calibration. May be empty.
  std::function<absl::Status(const CalibrationProgress&)> save;
};

struct CalibrateResult {
  Calibration calibration;  // without provenance: what the caller knows of text and model
  // All rungs that were measured, from dearest to cheapest; `calibration` keeps the monotone.
  std::vector<Rung> measured;
  std::array<RequirementQuality, kMaxLookahead + 1> quality;  // of the precision requirement model at each lookahead
};

// Measures every layer group at every lower precision on `windows.sensitivity`, builds the ladder, measures its rungs
// on `windows.holdout` and fits the precision requirement model to them. Goes on from `progress`, which must be of the
// same model, windows and num_rungs, or empty. Errors of CalibrationForward.
absl::StatusOr<CalibrateResult> Calibrate(const ModelStore& store, const CalibrationWindows& windows,
                                          const CalibrateOptions& options, CalibrationProgress progress);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CALIBRATE_H_
