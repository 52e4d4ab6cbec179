#ifndef FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_STORE_SHARE_H_
#define FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_STORE_SHARE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/precision.h"
#include "common/store/model_store.h"
#include "executor/tensor_parallel/matrix_share.h"
#include "executor/tensor_parallel/shard.h"

namespace flexquant::executor {

// A rank's part of a block's matrix of `kind`, not the head. `config` is the whole model's. RESOURCE_EXHAUSTED if
// memory is short.
absl::StatusOr<MatrixShare> CopyMatrixShare(const NestedMatrix& whole, LayerGroupKind kind, const ModelConfig& config,
                                            const Shard& shard);
// A rank's part of the matrix' bias; empty if there is none. Rank 0 alone has the biases of o and down: what the ranks
// compute of those is added up.
std::vector<float> BiasShare(absl::Span<const float> whole, LayerGroupKind kind, const ModelConfig& config,
                             const Shard& shard);

// A rank's weights in host memory: copies of its part of every block, views of its rows of the embedding and the head.
// Immutable and thread-safe.
class StoreShare {
 public:
  // `whole` must outlive it. Memory is first touched by the caller's thread.
  static absl::StatusOr<std::unique_ptr<StoreShare>> Load(const ModelStore& whole, const Shard& shard);

  // The share as a store of shard.Config()'s shape, but o and down have shard.o_cols and shard.down_cols.
  const ModelStore& store() const { return *store_; }
  // Copied.
  uint64_t bytes() const { return bytes_; }

 private:
  StoreShare() = default;
  absl::StatusOr<NestedMatrix> AddMatrix(const NestedMatrix& whole, LayerGroupKind kind, const ModelConfig& config,
                                         const Shard& shard);
  absl::Span<const float> AddBias(absl::Span<const float> whole, LayerGroupKind kind, const ModelConfig& config,
                                  const Shard& shard);

  std::vector<MatrixShare> matrices_;
  std::vector<std::vector<float>> biases_;
  uint64_t bytes_ = 0;
  std::unique_ptr<ModelStore> store_;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_STORE_SHARE_H_
