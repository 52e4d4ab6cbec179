#ifndef FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_CPU_RANKS_H_
#define FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_CPU_RANKS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "common/store/model_store.h"
#include "executor/cpu_model_runner.h"
#include "executor/tensor_parallel/tensor_parallel_runner.h"

namespace flexquant::executor {

// A model on ranks of this machine's CPUs: each has a part of the threads, a copy of its share of the weights and the
// keys and values of its heads. `store` must outlive the runner. options.kv_cache_bytes counts all ranks together.
// Errors of CutModel and CpuModelRunner::Create, naming the rank.
absl::StatusOr<std::unique_ptr<TensorParallelRunner>> CreateCpuRanks(const ModelStore& store,
                                                                     const CpuRunnerOptions& options,
                                                                     TensorParallelOptions parallel);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_CPU_RANKS_H_
