#ifndef FLEXQUANT_EXECUTOR_CUDA_CUDA_RANKS_H_
#define FLEXQUANT_EXECUTOR_CUDA_CUDA_RANKS_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/store/model_store.h"
#include "executor/cuda/cuda_model_runner.h"
#include "executor/tensor_parallel/tensor_parallel_runner.h"

namespace flexquant::executor {

// A model on a rank for each of `devices`, each with a share of the weights and the keys and values of its heads; the
// same device may have several ranks, for tests: FAILED_PRECONDITION unless CUDA loads all kernels at its start then,
// because loading one waits for those that run. `store` must outlive the runner. Errors of CutModel,
// NOT_FOUND without one of the devices, and errors of CudaModelRunner::CreateRank, naming the rank.
absl::StatusOr<std::unique_ptr<TensorParallelRunner>> CreateCudaRanks(const ModelStore& store,
                                                                      const CudaRunnerOptions& options,
                                                                      const std::vector<int>& devices,
                                                                      TensorParallelOptions parallel);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CUDA_CUDA_RANKS_H_
