#ifndef FLEXQUANT_EXECUTOR_RUNNER_FACTORY_H_
#define FLEXQUANT_EXECUTOR_RUNNER_FACTORY_H_

#include <memory>

#include "absl/status/statusor.h"
#include "common/store/model_store.h"
#include "executor/model_runner.h"
#include "executor/server.h"

namespace flexquant::executor {

// The backend that options.device names: "cpu", "cuda" (the first GPU, or the first ones if there are several ranks),
// "cuda:N", or "cuda:N,M" with a GPU for each rank. INVALID_ARGUMENT for another name or number, UNIMPLEMENTED for a
// GPU in a build without CUDA; else the backend's own errors. `store` must outlive the runner.
absl::StatusOr<std::unique_ptr<ModelRunner>> CreateRunner(const ModelStore& store, const ExecutorOptions& options);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_RUNNER_FACTORY_H_
