#ifndef FLEXQUANT_EXECUTOR_CUDA_CUDA_BENCH_MODEL_H_
#define FLEXQUANT_EXECUTOR_CUDA_CUDA_BENCH_MODEL_H_

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <memory>
#include <random>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model_config.h"
#include "common/precision.h"
#include "executor/cuda/cuda_forward.h"
#include "executor/cuda/cuda_model_runner.h"
#include "executor/cuda/device_memory.h"
#include "executor/cuda/device_weights.h"
#include "executor/cuda/step_arrays.h"
#include "executor/device_bench.h"

namespace flexquant::executor {

// Bytes of weights that a step reads at a plan, by kind of layer group.
using BytesByKind = std::array<double, kLayerGroupsPerBlock + 1>;

// A model's shape on a GPU with random weights, ready to run steps. Not thread-safe.
class CudaBenchModel {
 public:
  // For all batches, contexts and prefill chunks of `options`, as far as memory goes. With `rank` one rank's share, on
  // its device; called by every rank at the same time.
  static absl::StatusOr<std::unique_ptr<CudaBenchModel>> Create(const DeviceBenchOptions& options,
                                                                const CudaRank* rank = nullptr);
  ~CudaBenchModel();
  CudaBenchModel(const CudaBenchModel&) = delete;
  CudaBenchModel& operator=(const CudaBenchModel&) = delete;

  static int64_t BlocksFor(int64_t tokens);  // of the KV cache
  bool Fits(int batch, int64_t context) const { return BlocksFor(context) * batch <= blocks_; }

  const ModelConfig& config() const { return config_; }
  const std::string& device() const { return device_; }
  int num_layer_groups() const { return groups_; }
  cudaStream_t stream() const { return stream_; }
  DeviceWeights& weights() { return *weights_; }
  CudaForward& forward() { return *forward_; }
  StepArrays& arrays() { return *arrays_; }
  const PeerRanks* peers() const { return peers_.get(); }

  uint32_t RandomToken();
  // Fills the pinned arrays but the widths for the last of `context` tokens of `batch` sequences; greedy sampling.
  void SetSequences(int batch, int64_t context);
  // Fills the pinned table of widths; random ones are the same in every run, whatever was done before. `plan` is one of
  // DeviceBenchPlans.
  BytesByKind SetWidths(int batch, const std::string& plan);
  // Queues the copies of what SetSequences and the caller have filled.
  absl::Status Upload(int batch, int64_t context);
  // A graph of the decode step that reads them.
  absl::StatusOr<CudaGraph> CaptureDecode(int batch, LaunchObserver* observer = nullptr);

 private:
  explicit CudaBenchModel(const ModelConfig& config) : config_(config) {}
  absl::Status Initialise(const DeviceBenchOptions& options, const CudaRank* rank);

  const ModelConfig config_;
  std::string device_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<PeerRanks> peers_;  // null: alone
  std::unique_ptr<DeviceWeights> weights_;
  std::unique_ptr<CudaForward> forward_;
  std::unique_ptr<StepArrays> arrays_;
  int64_t blocks_ = 0;
  int groups_ = 0;
  std::mt19937 random_{1};
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CUDA_CUDA_BENCH_MODEL_H_
