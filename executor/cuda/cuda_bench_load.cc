#include <cuda_runtime.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/precision.h"
#include "common/status_macros.h"
#include "common/store/model_store.h"
#include "common/store/package_layout.h"
#include "executor/cuda/cuda_bench.h"
#include "executor/cuda/cuda_forward.h"
#include "executor/cuda/cuda_model_runner.h"
#include "executor/cuda/device_weights.h"
#include "executor/kv_cache.h"

namespace flexquant::executor {
namespace {

double Milliseconds(absl::Time since) { return absl::ToDoubleMilliseconds(absl::Now() - since); }

absl::StatusOr<uint64_t> FreeBytes() {
  size_t free = 0;
  size_t total = 0;
  FQ_RETURN_IF_CUDA_ERROR(cudaMemGetInfo(&free, &total));
  return free;
}

// One package, loaded again and again.
class LoadBench {
 public:
  LoadBench(std::string folder, const LoadBenchOptions& options) : folder_(std::move(folder)), options_(options) {}

  absl::Status Run(const std::function<absl::Status(uint64_t, uint64_t)>& progress, LoadBenchResult* result);

 private:
  // Opens the package afresh, so that the pages of its mapping are not there yet.
  absl::Status LoadOnce(int repetition, const std::function<absl::Status(uint64_t, uint64_t)>& progress,
                        LoadBenchResult* result);
  // Takes the workspace beside the weights, too.
  absl::Status GetReady(const ModelStore& store, const DeviceWeights& weights, uint64_t free_before,
                        LoadBenchResult* result) const;

  const std::string folder_;
  const LoadBenchOptions& options_;
  std::vector<double> open_ms_;
  std::vector<double> load_ms_;
};

absl::Status LoadBench::GetReady(const ModelStore& store, const DeviceWeights& weights, uint64_t free_before,
                                 LoadBenchResult* result) const {
  const ModelConfig& config = store.config();
  const CudaRunnerOptions defaults;
  CudaForwardShape shape;
  shape.kv_blocks = 1;
  shape.kv_block_tokens = defaults.kv_block_tokens;
  shape.max_context = config.max_context;
  shape.max_rows = defaults.max_step_tokens;
  shape.portable = !cuda::HopperPathSupported();
  const KvCache::Shape block{config.num_layers, config.num_kv_heads, config.head_dim, shape.kv_block_tokens, 1};
  result->workspace_bytes = CudaForward::WorkspaceBytes(config, shape) + block.Bytes();
  FQ_ASSIGN_OR_RETURN(const auto forward, CudaForward::Create(config, weights, shape, /*stream=*/nullptr));
  FQ_ASSIGN_OR_RETURN(const uint64_t free, FreeBytes());
  result->ready_bytes = free_before - std::min(free_before, free);
  return absl::OkStatus();
}

absl::Status LoadBench::LoadOnce(int repetition, const std::function<absl::Status(uint64_t, uint64_t)>& progress,
                                 LoadBenchResult* result) {
  FQ_ASSIGN_OR_RETURN(const uint64_t free_before, FreeBytes());
  const absl::Time opening = absl::Now();
  FQ_ASSIGN_OR_RETURN(const auto store, ModelStore::Open(folder_));
  const double open_ms = Milliseconds(opening);
  result->model = store->model_name();
  result->store_bytes = 0;
  for (const PackageTensor& tensor :
       PackageTensors(store->config(), store->group_size(), /*has_reference=*/false, Dtype::kBF16)) {
    result->store_bytes += tensor.bytes;
  }
  result->weight_bytes = DeviceWeights::Bytes(store->config(), store->group_size());

  uint64_t least_free = free_before;
  bool first = true;
  const auto repetitions = static_cast<uint64_t>(options_.repetitions) + 1;
  const auto queued = [&](uint64_t done, uint64_t total) -> absl::Status {
    // What is allocated does not change between the first piece and the last, and asking takes time.
    if (first || done == total) {
      FQ_ASSIGN_OR_RETURN(const uint64_t free, FreeBytes());
      least_free = std::min(least_free, free);
      first = false;
    }
    return progress(static_cast<uint64_t>(repetition) * total + done, repetitions * total);
  };
  const absl::Time loading = absl::Now();
  FQ_ASSIGN_OR_RETURN(const auto weights, DeviceWeights::Load(*store, /*reserve_bytes=*/0, queued));
  const double load_ms = Milliseconds(loading);
  result->loading_bytes = free_before - least_free;
  FQ_RETURN_IF_ERROR(GetReady(*store, *weights, free_before, result));
  if (repetition > 0) {
    open_ms_.push_back(open_ms);
    load_ms_.push_back(load_ms);
  }
  return absl::OkStatus();
}

absl::Status LoadBench::Run(const std::function<absl::Status(uint64_t, uint64_t)>& progress, LoadBenchResult* result) {
  // The first one also brings the kernels onto the device: the memory of the last is the weights' and buffers' alone.
  for (int repetition = 0; repetition <= options_.repetitions; ++repetition) {
    FQ_RETURN_IF_ERROR(LoadOnce(repetition, progress, result));
  }
  result->open = SummaryOf(open_ms_);
  result->load = SummaryOf(load_ms_);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LoadBenchResult> RunCudaLoadBench(const LoadBenchOptions& options,
                                                 const std::function<absl::Status(uint64_t, uint64_t)>& progress) {
  LoadBenchResult result;
  FQ_RETURN_IF_CUDA_ERROR(cudaSetDevice(options.device));
  cudaDeviceProp properties{};
  FQ_RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&properties, options.device));
  result.device = properties.name;
  FQ_ASSIGN_OR_RETURN(std::string folder, options.package());
  FQ_RETURN_IF_ERROR(LoadBench(std::move(folder), options).Run(progress, &result));
  return result;
}

}  // namespace flexquant::executor
