#ifndef FLEXQUANT_COMMON_STORE_CONVERT_H_
#define FLEXQUANT_COMMON_STORE_CONVERT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model_source.h"
#include "common/store/activation_statistics.h"
#include "common/store/manifest.h"

namespace flexquant {

struct ConvertOptions {
  int64_t group_size = kDefaultGroupSize;  // 32, 64 or 128
  bool keep_reference = false;
  int fine_activations_from = kDefaultFineActivationsFrom;  // Manifest::fine_activations_from
  // Leaves planes and scales as holes of the file: a package to be read at 16 bits only. Needs keep_reference.
  bool only_reference = false;
  // What enters the source's layer groups: errors in a column count by it. Null = all columns alike.
  const ActivationStatistics* activations = nullptr;
  std::optional<FitText> fit_text;  // for provenance, what `activations` were measured on
  bool overwrite = false;           // replace an existing destination (only if it is empty or a FlexQuant package)
  std::string model_name;           // empty = the source's, else the destination folder's name
  std::string source_path;          // for provenance
  int num_threads = 1;
  // Called after each tensor with bytes of the destination done and in all, from the calling thread. May be empty.
  std::function<void(uint64_t done_bytes, uint64_t total_bytes, const std::string& tensor)> progress;
  // Polled between tensors; true ends the conversion with CANCELLED and leaves nothing behind. May be empty.
  std::function<bool()> cancelled;
};

struct ConvertReport {
  uint64_t file_bytes = 0;  // model.safetensors
  uint64_t num_quantized_weights = 0;
  double stored_bits_per_weight = 0;  // planes and scales of all precisions over num_quantized_weights
  // Relative L2 error over all nested matrices at each of kPrecisions.
  std::vector<double> relative_error;
};

// Converts `source` into a model package at `destination`, tensor by tensor, into a temporary folder beside it that is
// renamed at the end: an interrupted run leaves nothing that loads. ALREADY_EXISTS if the destination exists and
// !overwrite.
absl::StatusOr<ConvertReport> Convert(ModelSource& source, const std::string& destination,
                                      const ConvertOptions& options);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_STORE_CONVERT_H_
