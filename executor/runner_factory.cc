#include "executor/runner_factory.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "executor/cpu_model_runner.h"
#include "executor/tensor_parallel/cpu_ranks.h"
#ifdef FLEXQUANT_HAVE_CUDA
#include "executor/cuda/cuda_model_runner.h"
#endif

namespace flexquant::executor {
namespace {

[[maybe_unused]] constexpr char kPortable[] = "portable";  // for a GPU only

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateCpuRunner(const ModelStore& store, const ExecutorOptions& options) {
  CpuRunnerOptions runner;
  runner.num_threads = options.num_threads;
  runner.isa = options.isa;
  runner.kv_block_tokens = options.kv_block_tokens;
  runner.kv_cache_bytes = options.kv_cache_bytes;
  runner.max_sequences = options.max_sequences;
  runner.max_step_tokens = options.max_step_tokens;
  if (options.tensor_parallel != 1) {
    TensorParallelOptions parallel;
    parallel.ranks = options.tensor_parallel;
    return CreateCpuRanks(store, runner, parallel);
  }
  return CpuModelRunner::Create(store, runner);
}

#ifdef FLEXQUANT_HAVE_CUDA
absl::StatusOr<std::unique_ptr<ModelRunner>> CreateCudaRunner(const ModelStore& store, const ExecutorOptions& options,
                                                              int device) {
  if (!options.isa.empty() && options.isa != kPortable) {
    return absl::InvalidArgumentError(absl::StrCat("instruction set '", options.isa,
                                                   "' is not one of a GPU's; allowed "
                                                   "with ",
                                                   options.device, ": portable, or none for the best"));
  }
  CudaRunnerOptions runner;
  runner.device = device;
  runner.portable = options.isa == kPortable;
  runner.kv_block_tokens = options.kv_block_tokens;
  runner.kv_cache_bytes = options.kv_cache_bytes;
  runner.max_sequences = options.max_sequences;
  runner.max_step_tokens = options.max_step_tokens;
  return CudaModelRunner::Create(store, runner);
}
#else
absl::StatusOr<std::unique_ptr<ModelRunner>> CreateCudaRunner(const ModelStore&, const ExecutorOptions& options, int) {
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
  int device = 0;
  absl::string_view name = options.device;
  if (absl::ConsumePrefix(&name, "cuda") &&
      (name.empty() || (absl::ConsumePrefix(&name, ":") && absl::SimpleAtoi(name, &device) && device >= 0))) {
    return CreateCudaRunner(store, options, device);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("device '", options.device, "' is unknown; allowed: cpu, cuda, or cuda:N for GPU N"));
}

}  // namespace flexquant::executor
