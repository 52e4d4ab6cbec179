#ifndef FLEXQUANT_EXECUTOR_CPU_MODEL_RUNNER_H_
#define FLEXQUANT_EXECUTOR_CPU_MODEL_RUNNER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/store/model_store.h"
#include "common/thread_pool.h"
#include "executor/cpu_linear.h"
#include "executor/fetch_ahead.h"
#include "executor/head_rescorer.h"
#include "executor/kv_cache.h"
#include "executor/memory.h"
#include "executor/model_runner.h"
#include "executor/resident_weights.h"
#include "executor/row_order.h"
#include "executor/tensor_parallel/rank_group.h"
#include "executor/tensor_parallel/shard.h"
#include "kernels/kernels.h"

namespace flexquant::executor {

struct CpuRunnerOptions {
  int num_threads = 0;  // 0 = DefaultNumThreads()
  bool pin = false;     // each thread to a core of its own, from core `first_core` of PhysicalCpus() on
  int first_core = 0;
  std::string isa;                 // empty = best; else a name that ParseIsa knows
  uint32_t kv_block_tokens = 16;   // in [1, 1024]
  uint64_t kv_cache_bytes = 0;     // as in KvCache::Plan
  int kv_cache_bits = 16;          // of keys and values: 16, or 8 with blocks of a multiple of 16 tokens
  uint32_t max_sequences = 64;     // in [1, 4096]
  uint32_t max_step_tokens = 512;  // in [1, 65536]
  bool rescore = true;             // heads below 8 bits: common/rescoring.h
  bool mapped_weights = false;     // Create: no copy of the weights (ResidentWeights) even where memory allows it
  // Activations of prompts have 8 bits at every width, not 15 at 6 and 8 bits; those of the head as ever.
  bool coarse_prompts = false;
};

// What makes a runner one rank of a group, whose store is the rank's share of a model.
struct CpuRank {
  RankGroup* group = nullptr;
  Shard shard;
  ModelConfig config;  // of the whole model
  // Of all ranks, [max_step_tokens, columns]: each rank writes its own columns.
  float* logits = nullptr;    // vocabulary
  float* attended = nullptr;  // of o; if shard.share_attended
  float* inner = nullptr;     // of down; if shard.share_inner
};

// Where a pass begins, if not at the embedding.
struct PassStart {
  int64_t block = 0;               // first block that runs, in [0, num_layers]; num_layers = only the head
  absl::Span<const float> hidden;  // [tokens of the step, hidden_size] in front of `block`; not used if block is 0
};

// Sees the hidden state [tokens of the step, hidden_size] in front of each block that runs and of the head, `block` =
// num_layers. An error ends the pass.
using BlockObserver = absl::FunctionRef<absl::Status(int64_t block, absl::Span<const float> hidden)>;

// Sees the inputs [rows, cols] of a layer group (common/precision.h's order), rows ordered by their widths.
using InputObserver = std::function<void(int group, int64_t rows, absl::Span<const float> inputs)>;

// Computes on a copy of the store's planes in huge pages, or, where copy and KV cache would leave less than a quarter
// of the free memory, on the mapped file. Buffers are reserved once and take memory as far as steps use them. A layer
// is five short parallel regions; what lies between them is done by the caller when it is small.
class CpuModelRunner : public ModelRunner {
 public:
  // `store` must outlive the runner. INVALID_ARGUMENT for options out of range, RESOURCE_EXHAUSTED if memory is short.
  static absl::StatusOr<std::unique_ptr<CpuModelRunner>> Create(const ModelStore& store,
                                                                const CpuRunnerOptions& options);

  // A rank: its results are those of the whole model, but of the step's sequences it outputs only every ranks-th, from
  // number shard.rank on. All ranks must run the same steps at the same time; the group's errors, too.
  static absl::StatusOr<std::unique_ptr<CpuModelRunner>> CreateRank(const ModelStore& share,
                                                                    const CpuRunnerOptions& options,
                                                                    const CpuRank& rank);

  const RunnerInfo& info() const override { return info_; }
  absl::Status RunStep(const StepBatch& batch, StepOutput* output) override;
  // The part of RunStep from `start` on; blocks in front of it neither read nor write the KV cache. INVALID_ARGUMENT if
  // start's block or size is out of range; the observer's errors.
  absl::Status RunFrom(const StepBatch& batch, const PassStart& start, BlockObserver observe, StepOutput* output);

  // Called in every step from now on, by RunStep's caller. Empty: not called.
  void set_input_observer(InputObserver observer) { observe_inputs_ = std::move(observer); }

  // What the runner computes with, for work on its results between steps.
  const CpuKernels& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }

 private:
  CpuModelRunner(const ModelStore& store, std::unique_ptr<ResidentWeights> resident, const CpuRunnerOptions& options,
                 const CpuRank& rank, std::vector<int> cpus, const CpuKernels& kernels);
  absl::Status Allocate(const KvCache::Shape& shape, bool rescore);

  // A token of the step: its sequence and position.
  struct Row {
    int32_t sequence = 0;
    int32_t position = 0;
  };
  // Where a row's keys and values go: bytes from the beginning of a layer's, for KV head 0; with 8 bits, of the slabs.
  struct StoredPlace {
    int64_t keys = 0;
    int64_t values = 0;
    int64_t slot = 0;  // in the slabs
  };
  // Query tokens [first, first + count) of one sequence. The context of a single one may be cut into parts, which
  // different threads compute.
  struct AttentionTask {
    size_t sequence = 0;
    int64_t first = 0;
    int64_t count = 0;
    int64_t parts = 1;
    int64_t first_part = 0;
    float* records = nullptr;  // [num_heads, parts, AttentionRecordBytes]
  };
  // What a thread takes at a time.
  struct AttentionItem {
    size_t task = 0;
    int64_t head_begin = 0;
    int64_t head_end = 0;
    int64_t part = 0;
  };

  void BeginStep(const StepBatch& batch);
  // Of a sequence's tokens, how many of the first have 8-bit activations at every width.
  int64_t CoarseTokens(const SequenceInput& sequence) const {
    return info_.settings.coarse_prompts ? sequence.prompt_tokens : 0;
  }
  void ComputeAngles();
  void LookUpEmbeddings(const StepBatch& batch);
  absl::Status RunBlock(const StepBatch& batch, int64_t layer);
  absl::Status RunHead(const StepBatch& batch, StepOutput* output);
  absl::Status RescoreHead(float* all_logits);
  absl::Status PrepareO(const NestedMatrix& o, int group);
  absl::Status PrepareDown(const NestedMatrix& down, int group);
  // Until every rank has written what all read.
  absl::Status WaitForRanks();
  // Makes hidden_ the sum over the ranks.
  absl::Status SumHidden();
  void RotateAndStore(const StepBatch& batch, int64_t layer);
  void PlanAttention(const StepBatch& batch);
  // The first position that the query at `position` sees.
  int64_t FirstVisible(int64_t position) const;
  // Where there is too little to do for all threads otherwise.
  void SplitContexts(const StepBatch& batch);
  // Which keys and values each thread reads first, for ahead_.
  void PlanFetches(const StepBatch& batch);
  // False if the thread has no room for more.
  bool AddRanges(const StepBatch& batch, const AttentionItem& item, int thread);
  StoredPlace PlaceOf(const StepBatch& batch, const Row& row) const;
  // Fetches what the step's rows, if they are few, are about to write of keys and values.
  void FetchStored(const StepBatch& batch, int64_t layer);
  // Most tasks of a step that are split; 0 with keys and values in fp16.
  uint64_t SplitTasks() const;
  // Of one query token.
  uint64_t AttentionRecordsBytes(int64_t parts) const;
  void Attend(const StepBatch& batch, int64_t layer);
  void AttendItem(const StepBatch& batch, int64_t layer, const AttentionItem& item, void* workspace);
  float* AttendedRow(int64_t row) const;
  void FinishSequence(const SequenceInput& input, absl::Span<float> logits, int thread, SequenceOutput* output);

  // Orders the step's rows by their sequences' widths in layer group `group`.
  void OrderRows(const StepBatch& batch, int group, RowOrder* order);
  void Prepare(const NestedMatrix& w, int group, const RowOrder& order, absl::FunctionRef<void(int64_t, float*)> fill);
  // Waiting threads fetch the product of layer group `group` from now on.
  void ExpectProduct(const StepBatch& batch, int group);
  // y [slots, w.rows] = prepared input times w, plus bias; or, if `residual`, added to hidden_ instead, which it
  // replaces in ranks other than 0: what counts is the sum over the ranks.
  void Multiply(const NestedMatrix& w, const RowOrder& order, absl::Span<const float> bias, bool residual, float* y);

  std::unique_ptr<ResidentWeights> resident_;  // what store_ is then a view of
  const ModelStore& store_;
  const ModelConfig& config_;
  const CpuKernels& kernels_;
  const CpuRank rank_;
  RunnerInfo info_;
  FetchAhead ahead_;
  ThreadPool pool_;
  CpuLinear linear_;
  HeadRescorer rescorer_;
  KvCache cache_;
  AttentionShape attention_shape_;
  std::vector<double> rope_frequencies_;

  std::vector<Row> rows_;
  std::vector<int64_t> first_row_;  // of each sequence
  std::vector<RowOrder::Rows> order_input_;
  std::vector<AttentionTask> attention_tasks_;
  std::vector<AttentionItem> attention_items_;  // of all tasks
  std::vector<size_t> split_tasks_;
  RowOrder qkv_order_;
  RowOrder o_order_;
  RowOrder gate_up_order_;
  RowOrder down_order_;
  RowOrder head_order_;
  uint64_t bytes_read_ = 0;
  InputObserver observe_inputs_;

  LazyBuffer cos_;        // [rows, head_dim / 2]
  LazyBuffer sin_;        // [rows, head_dim / 2]
  LazyBuffer hidden_;     // [rows, hidden]
  LazyBuffer attended_;   // [rows, q_size], unless the rank is given one
  LazyBuffer outputs_;    // [slots, rows of the matrix]
  LazyBuffer logits_;     // [slots, vocab], unless the rank is given one
  LazyBuffer penalised_;  // [threads, vocab], for sequences whose raw logits are wanted too
  LazyBuffer records_;    // of split tasks
  LazyBuffer workspace_;  // [threads, workspace_stride_]
  size_t workspace_stride_ = 0;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CPU_MODEL_RUNNER_H_
