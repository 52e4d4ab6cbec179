#include "executor/tensor_parallel/cpu_ranks.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "common/thread_pool.h"
#include "executor/kv_cache.h"
#include "executor/memory.h"
#include "executor/tensor_parallel/store_share.h"

namespace flexquant::executor {
namespace {

// What all ranks write and read.
struct SharedActivations {
  LazyBuffer logits;
  LazyBuffer attended;
  LazyBuffer inner;
};

absl::StatusOr<std::shared_ptr<const SharedActivations>> ShareActivations(const ModelConfig& config, const Shard& shard,
                                                                          uint32_t max_rows) {
  const auto bytes = [max_rows](int64_t cols) {
    return uint64_t{max_rows} * static_cast<uint64_t>(cols) * sizeof(float);
  };
  auto shared = std::make_shared<SharedActivations>();
  FQ_ASSIGN_OR_RETURN(shared->logits, LazyBuffer::Allocate(bytes(config.vocab_size), "logits"));
  if (shard.share_attended) {
    FQ_ASSIGN_OR_RETURN(shared->attended, LazyBuffer::Allocate(bytes(config.q_size()), "activations"));
  }
  if (shard.share_inner) {
    FQ_ASSIGN_OR_RETURN(shared->inner, LazyBuffer::Allocate(bytes(config.intermediate_size), "activations"));
  }
  return shared;
}

// A runner with what it computes on.
class CpuRankRunner : public ModelRunner {
 public:
  CpuRankRunner(std::unique_ptr<StoreShare> share, std::shared_ptr<const SharedActivations> shared,
                std::unique_ptr<CpuModelRunner> runner)
      : share_(std::move(share)), shared_(std::move(shared)), runner_(std::move(runner)) {}

  const RunnerInfo& info() const override { return runner_->info(); }
  absl::Status RunStep(const StepBatch& batch, StepOutput* output) override { return runner_->RunStep(batch, output); }

 private:
  std::unique_ptr<StoreShare> share_;
  std::shared_ptr<const SharedActivations> shared_;
  std::unique_ptr<CpuModelRunner> runner_;
};

// KV blocks for which all ranks together have room; every rank's share is in memory by now.
absl::StatusOr<uint32_t> PlanBlocks(const ModelConfig& config, const std::vector<Shard>& shards,
                                    const CpuRunnerOptions& options) {
  ModelConfig all = config;
  all.num_kv_heads = 0;
  for (const Shard& shard : shards) {
    all.num_kv_heads += shard.kv_heads.size();
  }
  FQ_ASSIGN_OR_RETURN(const uint64_t available, AvailableMemoryBytes());
  FQ_ASSIGN_OR_RETURN(const KvCache::Shape shape, KvCache::Plan(all, options.kv_block_tokens, options.kv_cache_bytes,
                                                                available, options.kv_cache_bits));
  return shape.num_blocks;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TensorParallelRunner>> CreateCpuRanks(const ModelStore& store,
                                                                     const CpuRunnerOptions& options,
                                                                     TensorParallelOptions parallel) {
  const ModelConfig& config = store.config();
  FQ_ASSIGN_OR_RETURN(const std::vector<Shard> shards, CutModel(config, store.group_size(), parallel.ranks));
  parallel.sampling_ranks = parallel.ranks;
  FQ_ASSIGN_OR_RETURN(const auto shared, ShareActivations(config, shards[0], options.max_step_tokens));
  const int threads = options.num_threads > 0 ? options.num_threads : DefaultNumThreads();

  const auto make_rank = [&](int rank, RankGroup& group) -> absl::StatusOr<std::unique_ptr<ModelRunner>> {
    const Shard& shard = shards[static_cast<size_t>(rank)];
    FQ_ASSIGN_OR_RETURN(std::unique_ptr<StoreShare> share, StoreShare::Load(store, shard));
    FQ_RETURN_IF_ERROR(group.Barrier(rank));
    uint32_t blocks = 0;
    if (rank == 0) {
      FQ_ASSIGN_OR_RETURN(blocks, PlanBlocks(config, shards, options));
    }
    FQ_ASSIGN_OR_RETURN(const std::vector<uint64_t> planned, group.AllGather(rank, blocks));

    CpuRunnerOptions own = options;
    own.num_threads = std::max(1, threads / parallel.ranks + (rank < threads % parallel.ranks ? 1 : 0));
    own.first_core = rank * std::max(1, threads / parallel.ranks) + std::min(rank, threads % parallel.ranks);
    own.kv_cache_bytes = KvCache::Shape{config.num_layers,
                                        shard.kv_heads.size(),
                                        config.head_dim,
                                        options.kv_block_tokens,
                                        static_cast<uint32_t>(planned[0]),
                                        options.kv_cache_bits}
                             .Bytes();
    FQ_ASSIGN_OR_RETURN(std::unique_ptr<CpuModelRunner> runner,
                        CpuModelRunner::CreateRank(share->store(), own,
                                                   {&group, shard, config, shared->logits.as<float>(),
                                                    shared->attended.as<float>(), shared->inner.as<float>()}));
    return std::make_unique<CpuRankRunner>(std::move(share), shared, std::move(runner));
  };
  return TensorParallelRunner::Create(parallel, make_rank);
}

}  // namespace flexquant::executor
