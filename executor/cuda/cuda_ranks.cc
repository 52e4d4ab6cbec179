#include "executor/cuda/cuda_ranks.h"

#include <cstdlib>
#include <set>

#include "absl/strings/string_view.h"
#include "common/status_macros.h"

namespace flexquant::executor {

absl::StatusOr<std::unique_ptr<TensorParallelRunner>> CreateCudaRanks(const ModelStore& store,
                                                                      const CudaRunnerOptions& options,
                                                                      const std::vector<int>& devices,
                                                                      TensorParallelOptions parallel) {
  parallel.ranks = static_cast<int>(devices.size());
  parallel.sampling_ranks = 1;
  // Before any rank looks for the others' memory.
  for (const int device : devices) {
    FQ_RETURN_IF_ERROR(CudaModelRunner::CheckDevice(device));
  }
  const char* loading = std::getenv("CUDA_MODULE_LOADING");
  if (std::set<int>(devices.begin(), devices.end()).size() < devices.size() &&
      (loading == nullptr || absl::string_view(loading) != "EAGER")) {
    return absl::FailedPreconditionError(
        "several ranks on one GPU need CUDA_MODULE_LOADING=EAGER in the environment; set it, or give each rank its "
        "own GPU");
  }
  FQ_ASSIGN_OR_RETURN(const std::vector<Shard> shards, CutModel(store.config(), store.group_size(), parallel.ranks));
  return TensorParallelRunner::Create(
      parallel, [&](int rank, RankGroup& group) -> absl::StatusOr<std::unique_ptr<ModelRunner>> {
        return CudaModelRunner::CreateRank(store, options, {&group, shards, devices, rank, parallel.timeout});
      });
}

}  // namespace flexquant::executor
