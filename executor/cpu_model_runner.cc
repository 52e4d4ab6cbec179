#include "executor/cpu_model_runner.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/half.h"
#include "common/status_macros.h"
#include "common/store/nested_quantizer.h"
#include "executor/cpu_choice.h"
#include "executor/for_rows.h"
#include "executor/rope.h"

namespace flexquant::executor {
namespace {

constexpr uint32_t kMaxSequences = 4096;
constexpr uint32_t kMaxStepTokens = 65536;
constexpr int kMaxThreads = 1024;
constexpr int kCoarseActivationBits = 8;

void LookUpRow(const NestedMatrix& matrix, int64_t row, bool reference, float* out) {
  if (!reference) {
    DequantizeRow(matrix, row, kTopPrecision, {out, static_cast<size_t>(matrix.cols)});
  } else if (matrix.reference_dtype == Dtype::kF32) {
    std::copy_n(static_cast<const float*>(matrix.reference) + row * matrix.cols, matrix.cols, out);
  } else {
    const uint16_t* from = static_cast<const uint16_t*>(matrix.reference) + row * matrix.cols;
    std::transform(from, from + matrix.cols, out, Bfloat16ToFloat);
  }
}

bool UsesReference(const SequenceInput& sequence) { return sequence.plan->bits[0] == kReferencePrecision; }

absl::Status CheckRange(absl::string_view what, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is ", value, "; allowed: ", low, " to ", high));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CpuModelRunner>> CpuModelRunner::Create(const ModelStore& store,
                                                                       const CpuRunnerOptions& options) {
  const ModelConfig& config = store.config();
  CpuRank alone;
  alone.shard.vocab = {0, config.vocab_size};
  alone.config = config;
  return CreateRank(store, options, alone);
}

absl::StatusOr<std::unique_ptr<CpuModelRunner>> CpuModelRunner::CreateRank(const ModelStore& store,
                                                                           const CpuRunnerOptions& wanted,
                                                                           const CpuRank& rank) {
  CpuRunnerOptions options = wanted;
  FQ_RETURN_IF_ERROR(CheckRange("the number of threads", options.num_threads, 0, kMaxThreads));
  FQ_RETURN_IF_ERROR(CheckRange("max_sequences", options.max_sequences, 1, kMaxSequences));
  FQ_RETURN_IF_ERROR(CheckRange("max_step_tokens", options.max_step_tokens, 1, kMaxStepTokens));
  FQ_ASSIGN_OR_RETURN(const Isa isa, ChooseIsa(options.isa));
  FQ_ASSIGN_OR_RETURN(const uint64_t available, AvailableMemoryBytes());
  FQ_ASSIGN_OR_RETURN(
      const KvCache::Shape shape,
      KvCache::Plan(store.config(), options.kv_block_tokens, options.kv_cache_bytes, available, options.kv_cache_bits));
  options.num_threads = options.num_threads > 0 ? options.num_threads : DefaultNumThreads();
  options.mapped_weights |= rank.group != nullptr;  // a rank's share is a copy already
  FQ_ASSIGN_OR_RETURN(std::vector<int> cpus, ChooseCpus(options.pin, options.first_core, options.num_threads));
  std::unique_ptr<ResidentWeights> resident;
  if (!options.mapped_weights && ResidentWeights::Bytes(store) + shape.Bytes() <= available / 4 * 3) {
    FQ_ASSIGN_OR_RETURN(resident, ResidentWeights::Load(store, options.num_threads, cpus));
  }
  auto runner = std::unique_ptr<CpuModelRunner>(
      new CpuModelRunner(store, std::move(resident), options, rank, std::move(cpus), GetCpuKernels(isa)));
  FQ_RETURN_IF_ERROR(runner->Allocate(shape, options.rescore));
  return runner;
}

CpuModelRunner::CpuModelRunner(const ModelStore& store, std::unique_ptr<ResidentWeights> resident,
                               const CpuRunnerOptions& options, const CpuRank& rank, std::vector<int> cpus,
                               const CpuKernels& kernels)
    : resident_(std::move(resident)),
      store_(resident_ != nullptr ? resident_->store() : store),
      config_(store_.config()),
      kernels_(kernels),
      rank_(rank),
      ahead_(options.num_threads),
      pool_(options.num_threads, std::move(cpus),
            [this](int thread, int64_t turn) { return ahead_.FetchMore(thread, turn); }),
      linear_(kernels, pool_, ahead_),
      rescorer_(kernels, pool_),
      rope_frequencies_(RopeFrequencies(config_.rope, config_.head_dim)),
      qkv_order_(options.max_step_tokens),
      o_order_(options.max_step_tokens),
      gate_up_order_(options.max_step_tokens),
      down_order_(options.max_step_tokens),
      head_order_(options.max_step_tokens) {
  info_.device =
      absl::StrCat("cpu ", IsaName(kernels.isa), ", ", options.num_threads,
                   options.num_threads == 1 ? " thread" : " threads", options.rescore ? "" : ", head not rescored",
                   resident_ != nullptr || rank.group != nullptr ? "" : ", weights mapped",
                   options.coarse_prompts ? ", prompts of 8-bit activations" : "",
                   options.kv_cache_bits == 8 ? ", 8-bit keys and values" : "");
  info_.num_layer_groups = store.num_layer_groups();
  info_.has_reference = store.has_reference();
  info_.vocab_size = rank.config.vocab_size;
  info_.max_context = config_.max_context;
  info_.kv_block_tokens = options.kv_block_tokens;
  info_.max_sequences = options.max_sequences;
  info_.max_step_tokens = options.max_step_tokens;
  info_.audits = true;
  info_.settings = {options.coarse_prompts, options.kv_cache_bits};

  attention_shape_.num_heads = config_.num_heads;
  attention_shape_.num_kv_heads = config_.num_kv_heads;
  attention_shape_.head_dim = config_.head_dim;
  attention_shape_.block_tokens = options.kv_block_tokens;
  attention_shape_.sliding_window = config_.sliding_window;
  attention_shape_.q_stride = config_.q_size() + 2 * config_.kv_size();
  attention_shape_.out_stride = rank.shard.share_attended ? rank.config.q_size() : config_.q_size();
  attention_shape_.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));

  rows_.reserve(options.max_step_tokens);
  first_row_.reserve(options.max_sequences);
  order_input_.reserve(2 * options.max_sequences);
}

absl::Status CpuModelRunner::Allocate(const KvCache::Shape& shape, bool rescore) {
  info_.kv_blocks = shape.num_blocks;
  FQ_ASSIGN_OR_RETURN(cache_, KvCache::Create(shape));
  attention_shape_.num_blocks = shape.num_blocks;

  const int64_t context = std::min(config_.max_context, static_cast<int64_t>(shape.num_blocks) * shape.block_tokens);
  workspace_stride_ = ThreadStride(AttentionWorkspaceBytes(attention_shape_, context));
  int64_t outputs = 0;
  for (int group = 0; group + 1 < info_.num_layer_groups; ++group) {
    outputs = std::max(outputs, store_.layer_group(group).rows);
  }

  const uint64_t rows = info_.max_step_tokens;
  const auto threads = static_cast<uint64_t>(pool_.num_threads());
  const std::pair<LazyBuffer*, uint64_t> buffers[] = {
      {&cos_, rows * rope_frequencies_.size() * sizeof(float)},
      {&sin_, rows * rope_frequencies_.size() * sizeof(float)},
      {&hidden_, rows * static_cast<uint64_t>(config_.hidden_size) * sizeof(float)},
      {&attended_, rank_.shard.share_attended ? 0 : rows * static_cast<uint64_t>(config_.q_size()) * sizeof(float)},
      {&outputs_, rows * static_cast<uint64_t>(outputs) * sizeof(float)},
      {&logits_, rank_.logits != nullptr ? 0 : rows * static_cast<uint64_t>(info_.vocab_size) * sizeof(float)},
      {&penalised_, threads * static_cast<uint64_t>(info_.vocab_size) * sizeof(float)},
      {&records_, SplitTasks() * AttentionRecordsBytes(context / kAttentionPartKeys + 1)},
      {&workspace_, threads * workspace_stride_},
  };
  for (const auto& [buffer, bytes] : buffers) {
    FQ_ASSIGN_OR_RETURN(*buffer, LazyBuffer::Allocate(bytes, "activations"));
  }
  if (rescore) {
    FQ_RETURN_IF_ERROR(
        rescorer_.Allocate(store_.lm_head(), rank_.shard.vocab.begin, info_.vocab_size, info_.max_step_tokens));
  }
  return linear_.Allocate(store_, info_.max_step_tokens);
}

absl::Status CpuModelRunner::RunStep(const StepBatch& batch, StepOutput* output) {
  return RunFrom(
      batch, {}, [](int64_t, absl::Span<const float>) { return absl::OkStatus(); }, output);
}

absl::Status CpuModelRunner::RunFrom(const StepBatch& batch, const PassStart& start, BlockObserver observe,
                                     StepOutput* output) {
  FQ_RETURN_IF_ERROR(ValidateBatch(batch, info_));
  FQ_RETURN_IF_ERROR(CheckRange("the first block", start.block, 0, config_.num_layers));
  BeginStep(batch);
  const size_t size = rows_.size() * static_cast<size_t>(config_.hidden_size);
  ComputeAngles();
  if (start.block == 0) {
    LookUpEmbeddings(batch);
    FQ_RETURN_IF_ERROR(SumHidden());
  } else if (start.hidden.size() == size) {
    std::copy(start.hidden.begin(), start.hidden.end(), hidden_.as<float>());
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("a hidden state of ", start.hidden.size(), " numbers; the step's tokens need ", size));
  }
  for (int64_t layer = start.block; layer < config_.num_layers; ++layer) {
    FQ_RETURN_IF_ERROR(observe(layer, {hidden_.as<float>(), size}));
    FQ_RETURN_IF_ERROR(RunBlock(batch, layer));
  }
  FQ_RETURN_IF_ERROR(observe(config_.num_layers, {hidden_.as<float>(), size}));
  FQ_RETURN_IF_ERROR(RunHead(batch, output));
  output->weight_bytes_read = bytes_read_;
  return absl::OkStatus();
}

void CpuModelRunner::BeginStep(const StepBatch& batch) {
  bytes_read_ = 0;
  rows_.clear();
  first_row_.clear();
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const SequenceInput& sequence = batch.sequences[s];
    const auto count = static_cast<int64_t>(sequence.tokens.size());
    first_row_.push_back(static_cast<int64_t>(rows_.size()));
    for (int64_t i = 0; i < count; ++i) {
      rows_.push_back({static_cast<int32_t>(s), static_cast<int32_t>(sequence.start + i)});
    }
  }
  PlanAttention(batch);
  PlanFetches(batch);
}

void CpuModelRunner::ComputeAngles() {
  const auto pairs = static_cast<int64_t>(rope_frequencies_.size());
  // A sine or cosine costs tens of plain operations.
  ForRows(pool_, static_cast<int64_t>(rows_.size()), 64 * pairs, [&](int64_t row) {
    RopeAngles(rope_frequencies_, rows_[static_cast<size_t>(row)].position, cos_.as<float>() + row * pairs,
               sin_.as<float>() + row * pairs);
  });
}

void CpuModelRunner::LookUpEmbeddings(const StepBatch& batch) {
  // Decoding an element costs tens of plain operations.
  ForRows(pool_, static_cast<int64_t>(rows_.size()), 16 * config_.hidden_size, [&](int64_t row) {
    const Row at = rows_[static_cast<size_t>(row)];
    const SequenceInput& sequence = batch.sequences[static_cast<size_t>(at.sequence)];
    const uint32_t token = sequence.tokens[static_cast<size_t>(at.position - sequence.start)];
    const int64_t own = static_cast<int64_t>(token) - rank_.shard.vocab.begin;
    float* out = hidden_.as<float>() + row * config_.hidden_size;
    if (own >= 0 && own < rank_.shard.vocab.size()) {
      LookUpRow(store_.embedding(), own, UsesReference(sequence), out);
    } else {
      std::fill_n(out, config_.hidden_size, 0.0F);
    }
  });
}

absl::Status CpuModelRunner::SumHidden() {
  if (rank_.group == nullptr) {
    return absl::OkStatus();
  }
  return rank_.group->AllReduceSum(rank_.shard.rank,
                                   {hidden_.as<float>(), rows_.size() * static_cast<size_t>(config_.hidden_size)});
}

absl::Status CpuModelRunner::RunBlock(const StepBatch& batch, int64_t layer) {
  const BlockWeights& block = store_.block(layer);
  const int group = LayerGroupIndex(static_cast<int>(layer), LayerGroupKind::kQkv);
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  const int64_t hidden = config_.hidden_size;
  const auto normed = [&](absl::Span<const float> weight) {
    return [this, weight, eps, hidden](int64_t row, float* out) {
      kernels_.rms_norm(hidden_.as<float>() + row * hidden, hidden, weight.data(), 1, hidden, eps, out, hidden);
    };
  };

  OrderRows(batch, group, &qkv_order_);
  Prepare(block.qkv, group, qkv_order_, normed(block.attention_norm));
  FetchStored(batch, layer);
  ahead_.ExpectRanges(cache_.keys(layer));
  Multiply(block.qkv, qkv_order_, block.qkv_bias, /*residual=*/false, outputs_.as<float>());
  RotateAndStore(batch, layer);
  ExpectProduct(batch, group + 1);
  Attend(batch, layer);

  OrderRows(batch, group + 1, &o_order_);
  FQ_RETURN_IF_ERROR(PrepareO(block.o, group + 1));
  ExpectProduct(batch, group + 2);
  FetchLines(block.mlp_norm.data(), hidden * static_cast<int64_t>(sizeof(float)));
  Multiply(block.o, o_order_, block.o_bias, /*residual=*/true, outputs_.as<float>());
  FQ_RETURN_IF_ERROR(SumHidden());

  OrderRows(batch, group + 2, &gate_up_order_);
  Prepare(block.gate_up, group + 2, gate_up_order_, normed(block.mlp_norm));
  ExpectProduct(batch, group + 3);
  Multiply(block.gate_up, gate_up_order_, block.gate_up_bias, /*residual=*/false, outputs_.as<float>());

  OrderRows(batch, group + 3, &down_order_);
  FQ_RETURN_IF_ERROR(PrepareDown(block.down, group + 3));
  ExpectProduct(batch, group + 4);
  const absl::Span<const float> next_norm =
      layer + 1 < config_.num_layers ? store_.block(layer + 1).attention_norm : store_.final_norm();
  FetchLines(next_norm.data(), hidden * static_cast<int64_t>(sizeof(float)));
  Multiply(block.down, down_order_, block.down_bias, /*residual=*/true, outputs_.as<float>());
  return SumHidden();
}

absl::Status CpuModelRunner::PrepareO(const NestedMatrix& o, int group) {
  const float* attended = attended_.as<float>();
  if (rank_.shard.share_attended) {
    FQ_RETURN_IF_ERROR(WaitForRanks());
    attended = rank_.attended + rank_.shard.o_cols.begin;
  }
  Prepare(o, group, o_order_,
          [&](int64_t row, float* out) { std::copy_n(attended + row * attention_shape_.out_stride, o.cols, out); });
  return absl::OkStatus();
}

absl::Status CpuModelRunner::PrepareDown(const NestedMatrix& down, int group) {
  const int64_t own = config_.intermediate_size;
  const auto multiply_gates = [&](int64_t row, float* out) {
    const float* gate = outputs_.as<float>() + gate_up_order_.slot(row) * 2 * own;
    kernels_.silu_mul(gate, gate + own, own, out);
  };
  if (!rank_.shard.share_inner) {
    Prepare(down, group, down_order_, multiply_gates);
    return absl::OkStatus();
  }
  const int64_t all = rank_.config.intermediate_size;
  ForRows(pool_, static_cast<int64_t>(rows_.size()), own,
          [&](int64_t row) { multiply_gates(row, rank_.inner + row * all + rank_.shard.inner.begin); });
  FQ_RETURN_IF_ERROR(WaitForRanks());
  Prepare(down, group, down_order_, [&](int64_t row, float* out) {
    std::copy_n(rank_.inner + row * all + rank_.shard.down_cols.begin, down.cols, out);
  });
  return absl::OkStatus();
}

absl::Status CpuModelRunner::WaitForRanks() {
  return rank_.group == nullptr ? absl::OkStatus() : rank_.group->Barrier(rank_.shard.rank);
}

void CpuModelRunner::OrderRows(const StepBatch& batch, int group, RowOrder* order) {
  order_input_.clear();
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const SequenceInput& sequence = batch.sequences[s];
    const int bits = sequence.plan->bits[static_cast<size_t>(group)];
    const int64_t coarse = CoarseTokens(sequence);
    const auto count = static_cast<int64_t>(sequence.tokens.size());
    if (coarse > 0) {
      order_input_.push_back({bits, kCoarseActivationBits, first_row_[s], coarse});
    }
    if (coarse < count) {
      order_input_.push_back(
          {bits, ActivationBits(bits, store_.fine_activations_from()), first_row_[s] + coarse, count - coarse});
    }
  }
  order->Build(order_input_);
}

void CpuModelRunner::Prepare(const NestedMatrix& w, int group, const RowOrder& order,
                             absl::FunctionRef<void(int64_t, float*)> fill) {
  linear_.Prepare(w, order, fill);
  if (observe_inputs_) {
    observe_inputs_(group, order.size(), linear_.Inputs(w, order));
  }
}

void CpuModelRunner::ExpectProduct(const StepBatch& batch, int group) {
  ahead_.ExpectProduct(store_.layer_group(group), batch.sequences[0].plan->bits[static_cast<size_t>(group)]);
}

void CpuModelRunner::Multiply(const NestedMatrix& w, const RowOrder& order, absl::Span<const float> bias, bool residual,
                              float* y) {
  bytes_read_ += linear_.Multiply(w, order, y, w.rows, [&](int64_t begin, int64_t end) {
    if (bias.empty() && !residual) {
      return;
    }
    for (int64_t slot = 0; slot < order.size(); ++slot) {
      float* out = y + slot * w.rows + begin;
      if (!bias.empty()) {
        kernels_.add(out, bias.data() + begin, end - begin);
      }
      float* hidden = hidden_.as<float>() + order.row(slot) * config_.hidden_size + begin;
      if (residual && rank_.shard.rank == 0) {
        kernels_.add(hidden, out, end - begin);
      } else if (residual) {
        std::copy_n(out, end - begin, hidden);
      }
    }
  });
}

}  // namespace flexquant::executor
