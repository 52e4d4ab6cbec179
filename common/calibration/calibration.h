#ifndef FLEXQUANT_COMMON_CALIBRATION_CALIBRATION_H_
#define FLEXQUANT_COMMON_CALIBRATION_CALIBRATION_H_

// What `flexquant calibrate` measures of a model: how sensitive each layer group is to a lower precision, the ladder of
// plans built from it, and the precision requirement model. KL = KL(top || plan) in nats of the next token's
// distribution, from the full logits. docs/calibration.md has the definitions.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/calibration/backend_loss.h"
#include "common/calibration/precision_requirement.h"
#include "common/precision.h"

namespace flexquant {

inline constexpr int kCalibrationFormatVersion = 2;

// The precisions below the top one, at which sensitivities are measured.
inline constexpr std::array<int, 4> kLowerPrecisions = {3, 4, 5, 6};

// Upper edges in nats of the entropy buckets but the last, which has none. Of the top precision's distribution.
inline constexpr std::array<double, 4> kEntropyBucketEdges = {0.25, 1, 2, 4};
inline constexpr size_t kEntropyBuckets = kEntropyBucketEdges.size() + 1;
// Bucket of a distribution; an edge belongs to the bucket above it.
size_t EntropyBucket(double entropy_nats);

// Mean KL with one layer group at a lower precision and all others at the top.
struct Sensitivity {
  double mean_kl = 0;                               // over all positions
  std::array<double, kEntropyBuckets> bucket_kl{};  // over the positions of a bucket; 0 if it has none
};
using GroupSensitivity = std::array<Sensitivity, kLowerPrecisions.size()>;  // at each of kLowerPrecisions

// One plan of the ladder. Everything but `predicted_kl` and `bytes` is measured, on text of which no sensitivity was
// measured.
struct Rung {
  PrecisionPlan plan;
  uint64_t bytes = 0;       // of planes and scales that a decode step reads
  double predicted_kl = 0;  // sum of the sensitivities of its layer groups
  double mean_kl = 0;
  double median_kl = 0;
  double p99_kl = 0;
  double top1_agreement = 0;  // fraction of positions whose most likely token is the top precision's
  double perplexity = 0;

  bool operator==(const Rung&) const = default;
};

// Steps that a controller may send before it knows the result of the one before them; the precision requirement model
// is fitted for each.
inline constexpr int kMaxLookahead = 1;

// A value type.
struct Calibration {
  std::string flexquant_version;
  std::string model_revision;                                // of the package whose weights were measured
  std::string text_name;                                     // base name of the text's file
  std::string text_checksum;                                 // hex XXH3-128 of the text
  uint64_t window = 0;                                       // tokens of a window
  uint64_t positions = 0;                                    // on which sensitivities were measured
  uint64_t holdout_positions = 0;                            // on which rungs were measured
  std::array<uint64_t, kEntropyBuckets> bucket_positions{};  // sum: positions
  std::vector<GroupSensitivity> sensitivities;               // [num_layer_groups]
  std::vector<Rung> rungs;  // from cheapest to the top precision: bytes rise, bits do not fall, mean_kl falls
  std::array<PrecisionRequirement, kMaxLookahead + 1> requirements;  // at each lookahead
  BackendLoss backend_loss;                                          // on the positions of the rungs

  // An object of JSON text.
  std::string ToJson() const;
  // INVALID_ARGUMENT names `path`, the field and the remedy: wrong types, numbers out of range, missing fields, another
  // format version, plans of other lengths, rungs out of order.
  static absl::StatusOr<Calibration> FromJson(const std::string& text, const std::string& path);

  // FAILED_PRECONDITION, naming both and the remedy, unless measured on the weights `revision` of so many layer groups.
  absl::Status CheckFits(const std::string& revision, int num_layer_groups, const std::string& path) const;
};

// The calibration in the text of flexquant.json at `path`; nullopt if the package has none. Errors of FromJson and
// CheckFits.
absl::StatusOr<std::optional<Calibration>> CalibrationOfManifest(const std::string& manifest_json,
                                                                 const std::string& path, const std::string& revision,
                                                                 int num_layer_groups);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_CALIBRATION_CALIBRATION_H_
