#ifndef FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_SHARD_H_
#define FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_SHARD_H_

// How a model is cut among the ranks of a tensor-parallel group. Arithmetic only.
//
// qkv and gate_up are cut by rows (whole heads; rows of gate and of up), o and down by the columns that read those
// rows, so that a block needs two sums over the ranks: behind o and behind down. The embedding and the head are cut by
// rows, at tiles. Columns are cut at quantisation groups, so that every group of activations is that of one rank and
// sums differ in their order only. Where heads end inside a group (or gate has too few groups), a rank's columns of o
// (or down) are not those of its own rows: ranks then share their results before the product, and a rank may have no
// columns.

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
  Range heads;      // query heads
  Range kv_heads;   // several ranks have the same one if there are more ranks than KV heads
  Range inner;      // rows of gate and of up
  Range vocab;      // rows of the embedding and of the head, from a multiple of kTileRows on
  Range o_cols;     // columns of o, at multiples of the group size
  Range down_cols;  // of down
  // Whether o_cols (down_cols) are other columns than this or another rank's heads (inner) are.
  bool share_attended = false;
  bool share_inner = false;

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
