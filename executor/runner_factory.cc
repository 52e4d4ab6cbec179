#include "executor/runner_factory.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "executor/cpu_model_runner.h"
#include "executor/tensor_parallel/cpu_ranks.h"
#ifdef FLEXQUANT_HAVE_CUDA
#include "executor/cuda/cuda_model_runner.h"
#include "executor/cuda/cuda_ranks.h"
#endif

namespace flexquant::executor {
namespace {

[[maybe_unused]] constexpr char kPortable[] = "portable";  // for a GPU only

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateCpuRunner(const ModelStore& store, const ExecutorOptions& options) {
  CpuRunnerOptions runner;
  runner.num_threads = options.num_threads;
  runner.pin = options.pin_threads;
  runner.isa = options.isa;
  runner.kv_block_tokens = options.kv_block_tokens;
  runner.kv_cache_bytes = options.kv_cache_bytes;
  runner.kv_cache_bits = options.kv_cache_bits;
  runner.max_sequences = options.max_sequences;
  runner.max_step_tokens = options.max_step_tokens;
  runner.rescore = options.rescore;
  runner.mapped_weights = options.mapped_weights;
  runner.coarse_prompts = options.coarse_prompts;
  if (options.tensor_parallel != 1) {
    TensorParallelOptions parallel;
    parallel.ranks = options.tensor_parallel;
    return CreateCpuRanks(store, runner, parallel);
  }
  return CpuModelRunner::Create(store, runner);
}

// Devices of "cuda:0,1" behind "cuda"; those of all ranks, 0, 1 ..., for "". Empty if it is not such a list.
std::vector<int> ParseDevices(absl::string_view name, int ranks) {
  std::vector<int> devices;
  if (name.empty()) {
    for (int rank = 0; rank < ranks; ++rank) {
      devices.push_back(rank);
    }
    return devices;
  }
  if (!absl::ConsumePrefix(&name, ":")) {
    return {};
  }
  for (const absl::string_view number : absl::StrSplit(name, ',')) {
    int device = 0;
    if (!absl::SimpleAtoi(number, &device) || device < 0) {
      return {};
    }
    devices.push_back(device);
  }
  return devices;
}

#ifdef FLEXQUANT_HAVE_CUDA
absl::StatusOr<std::unique_ptr<ModelRunner>> CreateCudaRunner(const ModelStore& store, const ExecutorOptions& options,
                                                              const std::vector<int>& devices) {
  if (!options.isa.empty() && options.isa != kPortable) {
    return absl::InvalidArgumentError(absl::StrCat("instruction set '", options.isa,
                                                   "' is not one of a GPU's; allowed "
                                                   "with ",
                                                   options.device, ": portable, or none for the best"));
  }
  CudaRunnerOptions runner;
  runner.device = devices[0];
  runner.portable = options.isa == kPortable;
  runner.kv_block_tokens = options.kv_block_tokens;
  runner.kv_cache_bytes = options.kv_cache_bytes;
  runner.max_sequences = options.max_sequences;
  runner.max_step_tokens = options.max_step_tokens;
  runner.rescore = options.rescore;
  if (devices.size() > 1) {
    return CreateCudaRanks(store, runner, devices, TensorParallelOptions());
  }
  return CudaModelRunner::Create(store, runner);
}
#else
absl::StatusOr<std::unique_ptr<ModelRunner>> CreateCudaRunner(const ModelStore&, const ExecutorOptions& options,
                                                              const std::vector<int>&) {
  return absl::UnimplementedError(absl::StrCat("device '", options.device,
                                               "': this build has no GPU executor; build with -DFLEXQUANT_CUDA=ON, or "
                                               "use cpu"));
}
#endif

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateRunner(const ModelStore& store, const ExecutorOptions& options) {
  if (options.device == "cpu") {
    return CreateCpuRunner(store, options);
  }
  absl::string_view name = options.device;
  std::vector<int> devices;
  if (absl::ConsumePrefix(&name, "cuda")) {
    devices = ParseDevices(name, options.tensor_parallel);
  }
  if (devices.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("device '", options.device,
                     "' is unknown; allowed: cpu, cuda, or cuda:N for GPU N (cuda:N,M for "
                     "two ranks)"));
  }
  if (static_cast<int>(devices.size()) != options.tensor_parallel) {
    return absl::InvalidArgumentError(absl::StrCat("device '", options.device, "' names ", devices.size(),
                                                   " GPUs for tensor parallelism of ", options.tensor_parallel,
                                                   "; name one a rank, or just cuda for the first ones"));
  }
  if (options.coarse_prompts) {
    return absl::InvalidArgumentError(absl::StrCat("prompts of 8-bit activations are for a CPU; device '",
                                                   options.device, "' computes them with 15 bits"));
  }
  if (options.kv_cache_bits != 16) {
    return absl::InvalidArgumentError(absl::StrCat("keys and values of ", options.kv_cache_bits,
                                                   " bits are for a CPU; device '", options.device, "' keeps 16"));
  }
  return CreateCudaRunner(store, options, devices);
}

}  // namespace flexquant::executor
