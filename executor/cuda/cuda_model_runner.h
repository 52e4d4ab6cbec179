#ifndef FLEXQUANT_EXECUTOR_CUDA_CUDA_MODEL_RUNNER_H_
#define FLEXQUANT_EXECUTOR_CUDA_CUDA_MODEL_RUNNER_H_

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/store/model_store.h"
#include "executor/cuda/cuda_forward.h"
#include "executor/cuda/device_memory.h"
#include "executor/cuda/device_weights.h"
#include "executor/cuda/peer_ranks.h"
#include "executor/cuda/step_arrays.h"
#include "executor/model_runner.h"
#include "executor/tensor_parallel/rank_group.h"
#include "executor/tensor_parallel/shard.h"

namespace flexquant::executor {

struct CudaRunnerOptions {
  int device = 0;
  uint32_t kv_block_tokens = 16;    // 16 or 32
  uint64_t kv_cache_bytes = 0;      // as in KvCache::Plan
  uint32_t max_sequences = 64;      // in [1, 64]
  uint32_t max_step_tokens = 2048;  // in [1, 65536]
  bool portable = false;            // the kernels for sm_80 and up even where Hopper's would run
  bool rescore = true;              // heads below 8 bits: common/rescoring.h
};

// What makes a runner one rank of a group; its store is the whole model's.
struct CudaRank {
  RankGroup* group = nullptr;
  std::vector<Shard> shards;  // of all ranks
  std::vector<int> devices;   // of all ranks; several may be on one
  int rank = 0;
  absl::Duration timeout = absl::Minutes(1);  // how long a rank may let the others wait on the device
};

// Computes on one GPU. Sequences with one token in a step are decoded together by a CUDA graph, one a batch size; it
// reads the plan from device memory, so any plan is served without capturing again. Longer chunks are prefilled one
// sequence after the other, outside graphs, in fp16 with fp32 sums: their results depend on how a prompt is cut by
// rounding only. Decoded tokens never depend on batch-mates.
class CudaModelRunner : public ModelRunner {
 public:
  // `store` must outlive the runner. INVALID_ARGUMENT for options out of range or a model that the kernels do not
  // cover, NOT_FOUND without such a device, RESOURCE_EXHAUSTED if device memory is short (says how much is missing).
  static absl::StatusOr<std::unique_ptr<CudaModelRunner>> Create(const ModelStore& store,
                                                                 const CudaRunnerOptions& options);
  // A rank: results are those of the whole model, and rank 0 has them. Called by every rank at the same time, as is
  // every step from then on. options.kv_cache_bytes counts all ranks together; options.device is not used. Errors of
  // DeviceWeights::LoadShare and PeerRanks::Create, too.
  static absl::StatusOr<std::unique_ptr<CudaModelRunner>> CreateRank(const ModelStore& store,
                                                                     const CudaRunnerOptions& options,
                                                                     const CudaRank& rank);
  // NOT_FOUND if there is no such device.
  static absl::Status CheckDevice(int device);
  ~CudaModelRunner() override;

  const RunnerInfo& info() const override { return info_; }
  // After a CUDA error every step fails with it.
  absl::Status RunStep(const StepBatch& batch, StepOutput* output) override;
  absl::Status Health() const override {
    const std::lock_guard lock(health_mutex_);
    return health_;
  }

 private:
  explicit CudaModelRunner(const ModelStore& store) : store_(store), config_(store.config()) {}
  absl::Status Initialise(CudaRunnerOptions options, const CudaRank* rank);
  // Weights, KV cache and the launches, in device memory.
  absl::Status Load(const CudaRunnerOptions& options, const CudaRank* rank, CudaForwardShape shape);
  absl::StatusOr<uint32_t> PlanKvBlocks(const CudaRunnerOptions& options, const CudaRank* rank, uint64_t reserve);
  // What the device is to look up: the token's row of this rank's table, or none.
  uint32_t EmbeddingRow(uint32_t token) const;
  // Until every rank has queued its part: copies of logits may block the driver, which others need to launch theirs.
  absl::Status WaitForLaunches() const;
  bool HasResults() const { return peers_ == nullptr || forward_rank_.rank == 0; }
  absl::Status CaptureGraphs();
  absl::Status RunStepOnDevice(const StepBatch& batch, StepOutput* output);
  absl::Status RunDecode(const StepBatch& batch, const std::vector<size_t>& sequences, StepOutput* output);
  absl::Status RunPrefill(const SequenceInput& sequence, std::vector<float>* logits, SequenceOutput* output);
  // Head and sampling of rows [first, first + count) of the chunk that RunPrefill has just computed.
  absl::Status RunHead(const SequenceInput& sequence, int64_t first, int count, float* logits, SequenceOutput* output);
  // Puts the counts that `sample`'s penalties need into `slot`, if it has any.
  absl::Status UploadCounts(const SampleSpec& sample, int slot);
  // Queues the copy of `count` rows of logits.
  absl::Status CopyLogits(int64_t row, int64_t count, float* to);
  void CountBytes(const StepBatch& batch, const std::vector<size_t>& sequences, StepOutput* output) const;

  // A decode step of up to `bucket` sequences.
  struct BucketGraph {
    int bucket = 0;
    CudaGraph graph;
  };

  const ModelStore& store_;
  ModelConfig config_;  // of this rank
  int device_ = 0;
  std::unique_ptr<PeerRanks> peers_;  // null: alone
  ForwardRank forward_rank_;
  RunnerInfo info_;
  mutable std::mutex health_mutex_;
  absl::Status health_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<DeviceWeights> weights_;
  std::unique_ptr<CudaForward> forward_;
  std::unique_ptr<StepArrays> decode_arrays_;
  std::unique_ptr<StepArrays> prefill_arrays_;
  std::vector<BucketGraph> graphs_;  // smallest bucket first
  DeviceBuffer count_tokens_;        // tokens on their way into the penalty counts
  PinnedBuffer count_staging_;
  size_t counts_staged_ = 0;                // of the step
  std::vector<std::vector<float>> logits_;  // of the last step, a sequence each
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CUDA_CUDA_MODEL_RUNNER_H_
