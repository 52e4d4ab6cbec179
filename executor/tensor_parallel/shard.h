#ifndef FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_SHARD_H_
#define FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_SHARD_H_

// How a model is cut among the ranks of a tensor-parallel group. Arithmetic only.
//
// qkv and gate_up are cut by rows (whole heads; rows of gate and of up), o and down by the columns that read those
// rows, so that a block needs two sums over the ranks: behind o and behind down. The embedding and the head are cut by
// rows, at tiles. Where a range of columns begins inside a quantisation group, the share begins at the group: it keeps
// the group's scales, and the inputs of the columns in front are zero.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model_config.h"

namespace flexquant::executor {

inline constexpr int kMaxTensorParallel = 64;

// [begin, end).
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// What one rank of `ranks` has of a model.
struct Shard {
  int rank = 0;
  int ranks = 1;
  Range heads;     // query heads
  Range kv_heads;  // several ranks have the same one if there are more ranks than KV heads
  Range inner;     // rows of gate and of up, columns of down
  Range vocab;     // rows of the embedding and of the head, from a multiple of kTileRows on
  // Columns of this rank's o and down in front of its own: their inputs are zero.
  int64_t o_lead = 0;
  int64_t down_lead = 0;

  // Shape of what the rank has: heads, intermediate size and vocabulary are the rank's.
  ModelConfig Config(const ModelConfig& whole) const;
};

// Group sizes that `config` allows, ascending.
std::vector<int> TensorParallelSizes(const ModelConfig& config);

// Every rank's share, in order of rank. KV heads go whole to ranks, as evenly as they can; with more ranks than KV
// heads each KV head's query heads are divided among the ranks that have it. `group_size` is the package's.
// INVALID_ARGUMENT, with the sizes that would do, if `ranks` is not one of TensorParallelSizes.
absl::StatusOr<std::vector<Shard>> CutModel(const ModelConfig& config, int64_t group_size, int ranks);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_SHARD_H_
