#ifndef FLEXQUANT_COMMON_CALIBRATION_CALIBRATION_PROGRESS_H_
#define FLEXQUANT_COMMON_CALIBRATION_CALIBRATION_PROGRESS_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/calibration/calibration.h"
#include "common/calibration/token_signals.h"

namespace flexquant {

// What an unfinished calibration has measured so far. A value type; written and read without loss, so that a run that
// was interrupted gives the numbers of one that was not.
struct CalibrationProgress {
  // Sums of KL over the positions of each bucket at each of kLowerPrecisions.
  using GroupSums = std::array<std::array<double, kEntropyBuckets>, kLowerPrecisions.size()>;
  // A rung on the held-back positions so far.
  struct RungSamples {
    std::vector<double> kl;  // [positions]
    uint64_t agreements = 0;
    double nll_nats = 0;  // sum of -log p(the token that follows)

    // Fills in what a rung has measured. At least one position.
    void Summarise(Rung* rung) const;
    bool operator==(const RungSamples&) const = default;
  };

  std::string key;          // names the model, text and settings that the numbers are of
  uint64_t units_done = 0;  // of executor/calibrate.h
  std::array<uint64_t, kEntropyBuckets> bucket_positions{};
  std::vector<GroupSums> sums;     // [num_layer_groups]; empty before the first unit
  std::vector<RungSamples> rungs;  // empty before the first held-back unit
  std::vector<std::vector<TokenSignals>>
      holdout_signals;  // [held-back windows so far][positions], of the top precision
  // Sums of KL over held-back positions, and of how many: with 8-bit keys and values, and behind prompts of 8-bit
  // activations. No positions: not measured.
  struct LossSum {
    double kl = 0;
    uint64_t positions = 0;

    std::optional<double> Mean() const {
      return positions > 0 ? std::optional(kl / static_cast<double>(positions)) : std::nullopt;
    }
    bool operator==(const LossSum&) const = default;
  };
  LossSum kv_cache_8;
  LossSum coarse_prompts;

  bool operator==(const CalibrationProgress&) const = default;

  // Over which the sums run.
  uint64_t Positions() const;
  // Means of the sums. At least one position.
  std::vector<GroupSensitivity> Sensitivities() const;

  std::string ToJson() const;
  // INVALID_ARGUMENT names `path` and the field.
  static absl::StatusOr<CalibrationProgress> FromJson(const std::string& text, const std::string& path);
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_CALIBRATION_CALIBRATION_PROGRESS_H_
