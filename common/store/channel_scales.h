#ifndef FLEXQUANT_COMMON_STORE_CHANNEL_SCALES_H_
#define FLEXQUANT_COMMON_STORE_CHANNEL_SCALES_H_

// Scales of the channels between two layers: the columns of a matrix are multiplied by them and what produces its
// inputs is divided by them, so the model's function stays. A column whose inputs are large gets finer steps that way.
// Scales are powers of two, so no digit of a weight changes.

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model_source.h"
#include "common/precision.h"
#include "common/store/activation_statistics.h"

namespace flexquant {

// Of one block, by LayerGroupKind: qkv [hidden], divided out of the attention norm; o [kv_size], out of v's rows (query
// heads that share a kv head share its scales); gate_up [hidden], out of the MLP's norm; down [intermediate], out of
// up's rows.
using ChannelScales = std::array<std::vector<float>, kLayerGroupsPerBlock>;

struct ChannelScaleOptions {
  int64_t group_size = kDefaultGroupSize;
  int num_threads = 1;
  // Called after each block, from the calling thread. May be empty.
  std::function<void(uint64_t done_blocks, uint64_t num_blocks)> progress;
  // Polled between matrices; true ends the search with CANCELLED. May be empty.
  std::function<bool()> cancelled;
};

// For each block and kind the scales rms^alpha, alpha in [0, 1], under which FitGroup's costs, weighted by
// `statistics`, are least on a sample of rows. Deterministic, whatever the number of threads. Holds one matrix. Errors
// of the source.
absl::StatusOr<std::vector<ChannelScales>> FindChannelScales(ModelSource& source,
                                                             const ActivationStatistics& statistics,
                                                             const ChannelScaleOptions& options);

// The statistics of the model that `scales` are folded into.
ActivationStatistics FoldStatistics(const ModelConfig& config, const std::vector<ChannelScales>& scales,
                                    ActivationStatistics statistics);

// `source`, which must outlive it, with `scales` folded into its tensors.
std::unique_ptr<ModelSource> FoldedSource(ModelSource& source, std::vector<ChannelScales> scales);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_STORE_CHANNEL_SCALES_H_
