#ifndef FLEXQUANT_EXECUTOR_CUDA_DEVICE_WEIGHTS_H_
#define FLEXQUANT_EXECUTOR_CUDA_DEVICE_WEIGHTS_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/model_config.h"
#include "common/store/model_store.h"
#include "executor/cuda/device_memory.h"
#include "executor/tensor_parallel/shard.h"
#include "kernels/cuda/nested_layout.h"

namespace flexquant::executor {

// One block's weights on the device; null where the family has none. Shapes as in BlockWeights.
struct DeviceBlock {
  cuda::DeviceNestedMatrix qkv;
  cuda::DeviceNestedMatrix o;
  cuda::DeviceNestedMatrix gate_up;  // paired
  cuda::DeviceNestedMatrix down;
  const float* attention_norm = nullptr;
  const float* mlp_norm = nullptr;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  const float* qkv_bias = nullptr;
  const float* o_bias = nullptr;
  const float* gate_up_bias = nullptr;
  const float* down_bias = nullptr;
};

// A model's weights in device memory, in the device layout; one copy serves every precision. Immutable.
class DeviceWeights {
 public:
  // Bytes of the store's matrices uploaded so far, and of all; an error that it returns ends loading.
  using Progress = absl::FunctionRef<absl::Status(uint64_t done, uint64_t total)>;

  // Streams the store's planes through pinned memory, which several threads fill, and repacks them on the device.
  // RESOURCE_EXHAUSTED before anything is allocated if `reserve_bytes` more than the weights do not fit, saying how
  // much is missing; INVALID_ARGUMENT for a group size that the kernels do not have.
  static absl::StatusOr<std::unique_ptr<DeviceWeights>> Load(
      const ModelStore& store, uint64_t reserve_bytes,
      Progress progress = [](uint64_t, uint64_t) { return absl::OkStatus(); });
  // One rank's share of a store's weights (executor/tensor_parallel); a matrix at a time is copied on the host. The
  // same errors, and INVALID_ARGUMENT for a share whose columns of o or down are not those of its own rows.
  static absl::StatusOr<std::unique_ptr<DeviceWeights>> LoadShare(const ModelStore& store, const Shard& shard,
                                                                  uint64_t reserve_bytes);
  // Weights of `config`'s shape that the device makes from a hash of `seed`, for benchmarks: no file is read. Norms are
  // 1, biases 0.
  static absl::StatusOr<std::unique_ptr<DeviceWeights>> Random(const ModelConfig& config, int64_t group_size,
                                                               uint64_t reserve_bytes, uint32_t seed);

  // Device memory of a loaded model's weights, and what Load takes besides while it runs. No device is needed.
  static uint64_t Bytes(const ModelConfig& config, int64_t group_size);
  static uint64_t StagingBytes(const ModelConfig& config, int64_t group_size);
  // What Load and Random check before they allocate: RESOURCE_EXHAUSTED saying how much of `free` (of `total`) bytes is
  // missing for weights and reserve.
  static absl::Status CheckFits(uint64_t weight_bytes, uint64_t reserve_bytes, uint64_t free, uint64_t total);

  const DeviceBlock& block(int64_t layer) const { return blocks_[static_cast<size_t>(layer)]; }
  const cuda::DeviceNestedMatrix& embedding() const { return embedding_; }
  const cuda::DeviceNestedMatrix& lm_head() const { return lm_head_; }
  const float* final_norm() const { return final_norm_; }
  // Matrix of layer group `index`.
  const cuda::DeviceNestedMatrix& layer_group(int index) const;
  // Start of all matrices, which lie next to each other; matrix_bytes() bytes.
  const void* matrices() const { return matrices_.as<void>(); }
  size_t matrix_bytes() const { return matrices_.bytes(); }
  uint64_t bytes() const { return matrices_.bytes() + vectors_.bytes(); }

 private:
  DeviceWeights() = default;
  // Shapes of all matrices, each with its offset from the start of their memory, and the bytes of all.
  struct Layout {
    std::vector<std::pair<cuda::DeviceNestedMatrix*, size_t>> places;
    size_t bytes = 0;
  };
  Layout LayOutMatrices(const ModelConfig& config, int64_t group_size);
  absl::Status AllocateMatrices(const ModelConfig& config, int64_t group_size, uint64_t reserve_bytes);
  absl::Status LoadVectors(const ModelStore& store, const Shard* shard);
  absl::Status LoadMatrices(const ModelStore& store, Progress progress);
  absl::Status LoadMatrixShares(const ModelStore& store, const Shard& shard);

  std::vector<DeviceBlock> blocks_;
  cuda::DeviceNestedMatrix embedding_;
  cuda::DeviceNestedMatrix lm_head_;
  const float* final_norm_ = nullptr;
  DeviceBuffer matrices_;
  DeviceBuffer vectors_;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CUDA_DEVICE_WEIGHTS_H_
