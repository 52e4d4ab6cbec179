#include "executor/cuda/cuda_forward.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/precision.h"
#include "common/rescoring.h"
#include "common/status_macros.h"
#include "executor/rope.h"
#include "kernels/cuda/activation_blocks.h"
#include "kernels/cuda/attention_decode.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/prefill_fused.h"
#include "kernels/cuda/rescoring.h"
#include "kernels/cuda/rope_kv.h"

namespace flexquant::executor {
namespace {

constexpr size_t kGemmWorkspaceBytes = size_t{64} << 20;
constexpr size_t kCublasWorkspaceBytes = size_t{32} << 20;
constexpr int kMaxRows = cuda::kMaxGemvRows;

// Widths whose activations have 15 bits, as a mask.
uint32_t FineWidths(int fine_from) {
  uint32_t mask = 0;
  for (const int bits : kPrecisions) {
    mask |= ActivationBits(bits, fine_from) > 8 ? 1U << bits : 0U;
  }
  return mask;
}

cuda::AttentionDecodeParams DecodeShape(const ModelConfig& config, const CudaForwardShape& shape) {
  cuda::AttentionDecodeParams params;
  params.num_heads = static_cast<int>(config.num_heads);
  params.num_kv_heads = static_cast<int>(config.num_kv_heads);
  params.head_dim = static_cast<int>(config.head_dim);
  params.block_tokens = static_cast<int>(shape.kv_block_tokens);
  params.sliding_window = static_cast<int>(config.sliding_window);
  params.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)));
  params.max_rows = kMaxRows;
  return params;
}

absl::Status CublasStatus(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) {
    return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat("cuBLAS: ", cublasGetStatusString(status), " at ", what));
}

}  // namespace

// What Allocate takes beside the KV cache, by the same list.
struct ForwardSizes {
  size_t rope, hidden, qkv, inner, attended, half, row_scale, logits, counts, gemv, attention, sampling, rescoring;

  ForwardSizes(const ModelConfig& c, const CudaForwardShape& shape, const ForwardRank& rank) {
    const int64_t sampled = rank.peers == nullptr ? c.vocab_size : rank.rank == 0 ? rank.vocab_size : 0;
    const auto rows = static_cast<size_t>(std::max<int64_t>(shape.max_rows, kMaxRows));
    const auto of = [](int64_t elements) { return static_cast<size_t>(elements); };
    rope = of(shape.max_context * (c.head_dim / 2)) * sizeof(float2);
    hidden = rows * of(c.hidden_size) * sizeof(float);
    qkv = rows * of(c.q_size() + 2 * c.kv_size()) * sizeof(float);
    inner = rows * of(2 * c.intermediate_size) * sizeof(float);
    attended = kMaxRows * of(c.q_size()) * sizeof(float);
    const int64_t widest = std::max({c.hidden_size, c.intermediate_size, c.q_size()});
    half = cuda::BlockedActivations(static_cast<int64_t>(rows), widest) * sizeof(uint16_t);
    row_scale = rows * sizeof(float);
    logits = kMaxRows * of(sampled) * sizeof(float);
    counts = logits;
    gemv = 0;
    const auto consider = [&](int64_t matrix_rows, int64_t cols, bool paired) {
      const cuda::DeviceNestedMatrix w{nullptr, matrix_rows, cols, kDefaultGroupSize, paired};
      gemv = std::max(gemv, cuda::GemvWorkspaceBytes(w, kMaxRows, /*fine=*/true));
    };
    consider(c.q_size() + 2 * c.kv_size(), c.hidden_size, false);
    consider(c.hidden_size, c.q_size(), false);
    consider(2 * c.intermediate_size, c.hidden_size, true);
    consider(c.hidden_size, c.intermediate_size, false);
    consider(c.vocab_size, c.hidden_size, false);
    attention = cuda::AttentionDecodeWorkspaceBytes(DecodeShape(c, shape));
    sampling = sampled == 0 ? 0 : cuda::SamplingWorkspaceBytes(kMaxRows, static_cast<int>(sampled));
    const int64_t vocab = rank.peers == nullptr ? c.vocab_size : rank.vocab_size;
    rescoring = shape.rescore ? cuda::RescoringWorkspaceBytes(kMaxRows, static_cast<int>(RescoredRows(vocab))) : 0;
  }
  size_t Total() const {
    return rope + hidden + qkv + inner + attended + half + row_scale + logits + counts + gemv + attention + sampling +
           rescoring + kGemmWorkspaceBytes + kCublasWorkspaceBytes;
  }
};

uint64_t CudaForward::WorkspaceBytes(const ModelConfig& config, const CudaForwardShape& shape,
                                     const ForwardRank& rank) {
  return ForwardSizes(config, shape, rank).Total();
}

CudaForward::CudaForward(const ModelConfig& config, const DeviceWeights& weights, const CudaForwardShape& shape,
                         cudaStream_t stream, const ForwardRank& rank)
    : config_(config),
      weights_(weights),
      shape_(shape),
      stream_(stream),
      rank_(rank),
      fused_(!shape.portable && cuda::FusedGemmSupported()) {}

CudaForward::~CudaForward() {
  if (cublas_ != nullptr) {
    cublasDestroy(cublas_);
  }
}

absl::StatusOr<std::unique_ptr<CudaForward>> CudaForward::Create(const ModelConfig& config,
                                                                 const DeviceWeights& weights,
                                                                 const CudaForwardShape& shape, cudaStream_t stream,
                                                                 const ForwardRank& rank) {
  auto forward = std::unique_ptr<CudaForward>(new CudaForward(config, weights, shape, stream, rank));
  FQ_RETURN_IF_ERROR(forward->Allocate());
  if (rank.peers != nullptr) {
    FQ_ASSIGN_OR_RETURN(const uint64_t logits, rank.peers->FromRankZero(reinterpret_cast<uint64_t>(forward->logits())));
    forward->rank_logits_ = reinterpret_cast<float*>(logits);
    FQ_RETURN_IF_ERROR(rank.peers->Share(forward->hidden_.as<float>()));
  } else {
    forward->rank_logits_ = forward->logits_.as<float>();
  }
  return forward;
}

absl::Status CudaForward::Allocate() {
  const ForwardSizes sizes(config_, shape_, rank_);
  const auto layer_elements = static_cast<size_t>(config_.kv_size()) * shape_.kv_block_tokens * shape_.kv_blocks;
  FQ_ASSIGN_OR_RETURN(
      kv_, AllocateDeviceZeroed(static_cast<size_t>(config_.num_layers) * 2 * layer_elements * 2, "the KV cache"));
  const std::pair<DeviceBuffer*, size_t> buffers[] = {
      {&rope_, sizes.rope},
      {&hidden_, sizes.hidden},
      {&qkv_, sizes.qkv},
      {&inner_, sizes.inner},
      {&attended_, sizes.attended},
      {&half_, sizes.half},
      {&row_scale_, sizes.row_scale},
      {&logits_, sizes.logits},
      {&counts_, sizes.counts},
      {&gemv_workspace_, sizes.gemv},
      {&attention_workspace_, sizes.attention},
      {&sampling_workspace_, sizes.sampling},
      {&rescoring_workspace_, sizes.rescoring},
      {&gemm_workspace_, kGemmWorkspaceBytes},
      {&cublas_workspace_, kCublasWorkspaceBytes},
  };
  for (const auto& [buffer, bytes] : buffers) {
    FQ_ASSIGN_OR_RETURN(*buffer, AllocateDeviceZeroed(bytes, "activations"));
  }
  FQ_RETURN_IF_ERROR(CublasStatus(cublasCreate(&cublas_), "cublasCreate"));
  FQ_RETURN_IF_ERROR(CublasStatus(cublasSetStream(cublas_, stream_), "cublasSetStream"));
  FQ_RETURN_IF_ERROR(CublasStatus(cublasSetWorkspace(cublas_, cublas_workspace_.as<void>(), cublas_workspace_.bytes()),
                                  "cublasSetWorkspace"));

  const std::vector<double> frequencies = RopeFrequencies(config_.rope, config_.head_dim);
  FQ_ASSIGN_OR_RETURN(const DeviceBuffer device, AllocateDevice(frequencies.size() * sizeof(double), "frequencies"));
  FQ_RETURN_IF_CUDA_ERROR(
      cudaMemcpyAsync(device.as<void>(), frequencies.data(), device.bytes(), cudaMemcpyHostToDevice, stream_));
  FQ_RETURN_IF_CUDA_ERROR(cuda::LaunchRopeTable(device.as<double>(), static_cast<int>(frequencies.size()),
                                                static_cast<int>(shape_.max_context), rope_.as<float2>(), stream_));
  return CudaStatus(cudaStreamSynchronize(stream_), "the rotary table");
}

uint64_t CudaForward::RescoringBytes(int64_t tokens) const {
  if (!shape_.rescore) {
    return 0;
  }
  const cuda::DeviceNestedMatrix& head = weights_.lm_head();
  return RescoredShareBytes(tokens, head.rows, Vocab(), head.cols, head.group_size);
}

uint16_t* CudaForward::Keys(int64_t layer) const {
  const int64_t elements = config_.kv_size() * shape_.kv_block_tokens * shape_.kv_blocks;
  return kv_.as<uint16_t>() + 2 * layer * elements;
}

uint16_t* CudaForward::Values(int64_t layer) const {
  return Keys(layer) + config_.kv_size() * shape_.kv_block_tokens * shape_.kv_blocks;
}

absl::Status CudaForward::LaunchDecode(const PassInputs& inputs, int bucket, cuda::RowSample* results,
                                       LaunchObserver* observer) {
  observer_ = observer;
  const absl::Cleanup done = [this] { observer_ = nullptr; };
  FQ_RETURN_IF_ERROR(LaunchEmbedding(inputs, bucket));
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    FQ_RETURN_IF_ERROR(LaunchSmallBlock(inputs, layer, bucket, Attention::kDecode));
  }
  return LaunchHeadRows(inputs, hidden_.as<float>(), bucket, results);
}

absl::Status CudaForward::LaunchHead(const PassInputs& inputs, int64_t first, int count, cuda::RowSample* results) {
  // Rank 0 has read the logits before these.
  FQ_RETURN_IF_ERROR(LaunchBarrier());
  return LaunchHeadRows(inputs, hidden_.as<float>() + first * config_.hidden_size, count, results);
}

absl::Status CudaForward::LaunchCounts(int slot, bool clear, const uint32_t* tokens, int num_tokens, bool answer) {
  cuda::CountTokensParams params;
  params.counts = counts_.as<uint32_t>() + slot * Vocab();
  params.vocab = static_cast<int>(Vocab());
  params.clear = clear;
  params.tokens = tokens;
  params.num_tokens = num_tokens;
  params.answer = answer;
  return CudaStatus(cuda::LaunchCountTokens(params, stream_), "counting tokens");
}

absl::Status CudaForward::LaunchEmbedding(const PassInputs& inputs, int rows) {
  cuda::EmbeddingParams params;
  params.records = weights_.embedding();
  params.tokens = inputs.tokens;
  params.num_rows = inputs.num_rows;
  params.max_rows = rows;
  params.hidden = hidden_.as<float>();
  FQ_RETURN_IF_ERROR(Launch("embedding", [&] { return cuda::LaunchEmbedding(params, stream_); }));
  return LaunchSum(inputs, rows);
}

absl::Status CudaForward::LaunchSum(const PassInputs& inputs, int rows) {
  return LaunchOfRanks([&] { return rank_.peers->LaunchSum(config_.hidden_size, inputs.num_rows, rows, stream_); });
}

absl::Status CudaForward::LaunchBarrier() {
  return LaunchOfRanks([&] { return rank_.peers->LaunchBarrier(stream_); });
}

absl::Status CudaForward::LaunchOfRanks(absl::FunctionRef<absl::Status()> launch) {
  if (rank_.peers == nullptr) {
    return absl::OkStatus();
  }
  return observer_ == nullptr ? launch() : observer_->Launch(kRanksPlace, launch);
}

cuda::GemvParams CudaForward::Gemv(const PassInputs& inputs, const cuda::DeviceNestedMatrix& w, int group,
                                   int rows) const {
  cuda::GemvParams params;
  params.weights = w;
  params.rows = rows;
  params.valid_rows = inputs.num_rows;
  params.widths = inputs.widths + static_cast<int64_t>(group) * kMaxRows;
  params.fine_widths = FineWidths(shape_.fine_activations_from);
  params.norm_eps = static_cast<float>(config_.rms_norm_eps);
  params.workspace = gemv_workspace_.as<void>();
  params.portable = shape_.portable;
  params.tuning.keep_low_columns = shape_.keep_low_columns;
  params.dependent_launch = DependentLaunch();
  return params;
}

absl::Status CudaForward::LaunchGemv(const char* name, const cuda::GemvParams& params) {
  if (observer_ == nullptr) {
    return CudaStatus(cuda::LaunchNestedGemv(params, stream_), name);
  }
  cuda::GemvParams part = params;
  const auto launch = [&] { return CudaStatus(cuda::LaunchNestedGemv(part, stream_), name); };
  part.launches = cuda::GemvLaunches::kQuantize;
  FQ_RETURN_IF_ERROR(observer_->Launch(absl::StrCat(name, " quantize"), launch));
  part.launches = cuda::GemvLaunches::kProduct;
  return observer_->Launch(name, launch);
}

absl::Status CudaForward::Launch(const char* name, absl::FunctionRef<cudaError_t()> launch) {
  if (observer_ == nullptr) {
    return CudaStatus(launch(), name);
  }
  return observer_->Launch(name, [&] { return CudaStatus(launch(), name); });
}

bool CudaForward::DependentLaunch() const {
  return !shape_.portable && (observer_ == nullptr || observer_->dependent_launch());
}

absl::Status CudaForward::LaunchSmallBlock(const PassInputs& inputs, int64_t layer, int rows, Attention attention) {
  const DeviceBlock& block = weights_.block(layer);
  const int group = LayerGroupIndex(static_cast<int>(layer), LayerGroupKind::kQkv);
  float* hidden = hidden_.as<float>();

  cuda::GemvParams qkv = Gemv(inputs, block.qkv, group, rows);
  qkv.x = hidden;
  qkv.ldx = config_.hidden_size;
  qkv.norm_weight = block.attention_norm;
  qkv.bias = block.qkv_bias;
  qkv.y = qkv_.as<float>();
  qkv.ldy = block.qkv.rows;
  if (attention == Attention::kDecode) {
    cuda::AttentionDecodeParams behind = DecodeShape(config_, shape_);
    behind.max_rows = rows;
    qkv.tuning.shared_left = static_cast<int>(cuda::AttentionDecodeSharedBytes(behind));
  }
  FQ_RETURN_IF_ERROR(LaunchGemv("qkv", qkv));

  if (attention == Attention::kDecode) {
    FQ_RETURN_IF_ERROR(LaunchAttentionDecode(inputs, layer, rows));
  } else {
    FQ_RETURN_IF_ERROR(LaunchRopeKv(inputs, layer, rows, nullptr, /*one_sequence=*/true));
    FQ_RETURN_IF_ERROR(LaunchAttentionPrefill(inputs, layer, rows, AttentionOutput::kFloats));
  }

  cuda::GemvParams o = Gemv(inputs, block.o, group + 1, rows);
  o.x = attended_.as<float>();
  o.ldx = config_.q_size();
  o.bias = block.o_bias;
  o.epilogue = ResidualEpilogue();
  o.y = hidden;
  o.ldy = config_.hidden_size;
  FQ_RETURN_IF_ERROR(LaunchGemv("o", o));
  FQ_RETURN_IF_ERROR(LaunchSum(inputs, rows));

  cuda::GemvParams gate_up = Gemv(inputs, block.gate_up, group + 2, rows);
  gate_up.x = hidden;
  gate_up.ldx = config_.hidden_size;
  gate_up.norm_weight = block.mlp_norm;
  gate_up.bias = block.gate_up_bias;
  gate_up.epilogue = cuda::GemvEpilogue::kSiluMul;
  gate_up.y = inner_.as<float>();
  gate_up.ldy = config_.intermediate_size;
  FQ_RETURN_IF_ERROR(LaunchGemv("gate_up", gate_up));

  cuda::GemvParams down = Gemv(inputs, block.down, group + 3, rows);
  down.x = inner_.as<float>();
  down.ldx = config_.intermediate_size;
  down.bias = block.down_bias;
  down.epilogue = ResidualEpilogue();
  down.y = hidden;
  down.ldy = config_.hidden_size;
  FQ_RETURN_IF_ERROR(LaunchGemv("down", down));
  return LaunchSum(inputs, rows);
}

absl::Status CudaForward::LaunchRopeKv(const PassInputs& inputs, int64_t layer, int rows, const float* bias,
                                       bool one_sequence) {
  const DeviceBlock& block = weights_.block(layer);
  cuda::RopeKvParams params;
  params.num_heads = static_cast<int>(config_.num_heads);
  params.num_kv_heads = static_cast<int>(config_.num_kv_heads);
  params.head_dim = static_cast<int>(config_.head_dim);
  params.block_tokens = static_cast<int>(shape_.kv_block_tokens);
  params.qkv = qkv_.as<float>();
  params.stride = block.qkv.rows;
  params.bias = bias;
  params.q_norm = block.q_norm;
  params.k_norm = block.k_norm;
  params.norm_eps = static_cast<float>(config_.rms_norm_eps);
  params.rope = rope_.as<float2>();
  params.positions = inputs.positions;
  params.sequence_of = one_sequence ? inputs.sequence_of_row : nullptr;
  params.block_tables = inputs.block_tables;
  params.block_table_stride = inputs.block_table_stride;
  params.k_cache = Keys(layer);
  params.v_cache = Values(layer);
  params.num_rows = inputs.num_rows;
  params.max_rows = rows;
  return Launch("rope", [&] { return cuda::LaunchRopeKv(params, stream_, DependentLaunch()); });
}

absl::Status CudaForward::LaunchAttentionDecode(const PassInputs& inputs, int64_t layer, int rows) {
  cuda::AttentionDecodeParams params = DecodeShape(config_, shape_);
  if (cuda::AttentionDecodeRotates(params)) {
    const DeviceBlock& block = weights_.block(layer);
    params.rope = {rope_.as<float2>(), block.q_norm, block.k_norm, static_cast<float>(config_.rms_norm_eps)};
  } else {
    FQ_RETURN_IF_ERROR(LaunchRopeKv(inputs, layer, rows, nullptr, /*one_sequence=*/false));
  }
  params.q = qkv_.as<float>();
  params.q_stride = weights_.block(layer).qkv.rows;
  params.out = attended_.as<float>();
  params.out_stride = config_.q_size();
  params.k_cache = Keys(layer);
  params.v_cache = Values(layer);
  params.block_tables = inputs.block_tables;
  params.block_table_stride = inputs.block_table_stride;
  params.positions = inputs.positions;
  params.num_rows = inputs.num_rows;
  params.max_rows = rows;
  params.workspace = attention_workspace_.as<void>();
  // Rows, positions, tables and the cache before this token were there before the step began.
  params.context_ready = true;
  return Launch("attention", [&] { return cuda::LaunchAttentionDecode(params, stream_, DependentLaunch()); });
}

absl::Status CudaForward::LaunchHeadRows(const PassInputs& inputs, const float* hidden, int rows,
                                         cuda::RowSample* results) {
  cuda::GemvParams head = Gemv(inputs, weights_.lm_head(), LmHeadIndex(static_cast<int>(config_.num_layers)), rows);
  head.x = hidden;
  head.ldx = config_.hidden_size;
  head.norm_weight = weights_.final_norm();
  head.y = rank_logits_ + rank_.vocab_begin;
  head.ldy = Vocab();
  FQ_RETURN_IF_ERROR(LaunchGemv("lm_head", head));
  FQ_RETURN_IF_ERROR(LaunchRescoring(inputs, hidden, rows));
  FQ_RETURN_IF_ERROR(LaunchBarrier());
  if (!FirstRank()) {
    return absl::OkStatus();
  }

  cuda::SamplingParams sampling;
  sampling.logits = logits_.as<float>();
  sampling.stride = Vocab();
  sampling.vocab = static_cast<int>(Vocab());
  sampling.settings = inputs.sampling;
  sampling.token_counts = counts_.as<uint32_t>();
  sampling.results = results;
  sampling.num_rows = inputs.num_rows;
  sampling.max_rows = rows;
  sampling.workspace = sampling_workspace_.as<void>();
  return Launch("sampling", [&] { return cuda::LaunchSampling(sampling, stream_, DependentLaunch()); });
}

absl::Status CudaForward::LaunchRescoring(const PassInputs& inputs, const float* hidden, int rows) {
  const auto limit = static_cast<int>(RescoredRows(Vocab()));
  if (!shape_.rescore || limit == 0) {
    return absl::OkStatus();
  }
  cuda::RescoringParams params;
  params.head = weights_.lm_head();
  params.vocab_begin = rank_.vocab_begin;
  params.vocab = static_cast<int>(Vocab());
  params.limit = limit;
  params.x = hidden;
  params.ldx = config_.hidden_size;
  params.norm_weight = weights_.final_norm();
  params.norm_eps = static_cast<float>(config_.rms_norm_eps);
  params.widths = inputs.widths + static_cast<int64_t>(LmHeadIndex(static_cast<int>(config_.num_layers))) * kMaxRows;
  params.logits = rank_logits_;
  params.stride = Vocab();
  params.num_rows = inputs.num_rows;
  params.max_rows = rows;
  params.portable = shape_.portable;
  params.workspace = rescoring_workspace_.as<void>();
  // Every rank chooses from all ranks' logits, and so the same tokens; none may write before all have chosen.
  FQ_RETURN_IF_ERROR(LaunchBarrier());
  FQ_RETURN_IF_ERROR(
      Launch("rescoring choice", [&] { return cuda::LaunchRescoringChoice(params, stream_, DependentLaunch()); }));
  FQ_RETURN_IF_ERROR(LaunchBarrier());
  return Launch("rescoring", [&] { return cuda::LaunchRescoring(params, stream_, DependentLaunch()); });
}

}  // namespace flexquant::executor
