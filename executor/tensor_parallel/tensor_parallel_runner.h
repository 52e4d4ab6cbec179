#ifndef FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_TENSOR_PARALLEL_RUNNER_H_
#define FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_TENSOR_PARALLEL_RUNNER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/thread_pool.h"
#include "executor/model_runner.h"
#include "executor/tensor_parallel/rank_group.h"

namespace flexquant::executor {

struct TensorParallelOptions {
  int ranks = 1;
  // A sequence's output comes from the rank of this many whose number is the sequence's, modulo it.
  int sampling_ranks = 1;
  // How long a rank may let the others wait.
  absl::Duration timeout = absl::Minutes(1);
  // Called by every rank before a step; an error makes the rank fail. For tests; may be empty.
  std::function<absl::Status(int rank)> before_step;
};

// One model on several ranks, a runner and a thread each, that run every step together. Before a step the ranks compare
// a hash of it, so that none computes another plan than the rest. A rank that fails ends the group: RunStep and Health
// then return its status, with its name.
class TensorParallelRunner : public ModelRunner {
 public:
  // Makes a rank's runner; called at the same time on every rank's thread. Its runner may use the group in its steps.
  using MakeRank = absl::FunctionRef<absl::StatusOr<std::unique_ptr<ModelRunner>>(int rank, RankGroup& group)>;

  // The error of the first rank that cannot be made.
  static absl::StatusOr<std::unique_ptr<TensorParallelRunner>> Create(const TensorParallelOptions& options,
                                                                      MakeRank make_rank);

  const RunnerInfo& info() const override { return info_; }
  absl::Status RunStep(const StepBatch& batch, StepOutput* output) override;
  absl::Status Health() const override;

 private:
  explicit TensorParallelRunner(const TensorParallelOptions& options);
  absl::Status RunRank(int rank, const StepBatch& batch, uint64_t hash);

  const TensorParallelOptions options_;
  RankGroup group_;
  ThreadPool threads_;
  std::vector<std::unique_ptr<ModelRunner>> runners_;  // one a rank
  std::vector<StepOutput> outputs_;                    // one a rank
  RunnerInfo info_;
};

// Hash of what a step computes: tokens, positions, plans, KV blocks and what is wanted.
uint64_t StepHash(const StepBatch& batch);

// Ends `rank`'s step unless every rank's `hash` is the same: INTERNAL, naming two ranks that differ.
absl::Status CheckSameStep(RankGroup& group, int rank, uint64_t hash);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_TENSOR_PARALLEL_RUNNER_H_
