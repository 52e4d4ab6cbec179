// The part of CudaForward that only prefill needs.

#include <cmath>

#include "common/precision.h"
#include "common/status_macros.h"
#include "executor/cuda/cuda_forward.h"
#include "kernels/cuda/activation_blocks.h"
#include "kernels/cuda/attention_prefill.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/prefill_fused.h"
#include "kernels/cuda/prefill_gemm.h"

namespace flexquant::executor {

absl::Status CudaForward::LaunchPrefill(const PassInputs& inputs, int rows, absl::Span<const uint8_t> bits) {
  const int small = fused_ ? kMaxSmallRows : cuda::kMaxGemvRows;
  FQ_RETURN_IF_ERROR(LaunchEmbedding(inputs, rows));
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    FQ_RETURN_IF_ERROR(rows <= small ? LaunchSmallBlock(inputs, layer, rows, Attention::kPrefill)
                       : fused_      ? LaunchFusedBlock(inputs, layer, rows, bits)
                                     : LaunchLargeBlock(inputs, layer, rows, bits));
  }
  return absl::OkStatus();
}

absl::Status CudaForward::LaunchAttentionPrefill(const PassInputs& inputs, int64_t layer, int rows,
                                                 AttentionOutput output) {
  cuda::AttentionPrefillParams params;
  params.num_heads = static_cast<int>(config_.num_heads);
  params.num_kv_heads = static_cast<int>(config_.num_kv_heads);
  params.head_dim = static_cast<int>(config_.head_dim);
  params.block_tokens = static_cast<int>(shape_.kv_block_tokens);
  params.sliding_window = static_cast<int>(config_.sliding_window);
  params.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));
  params.q = qkv_.as<float>();
  params.q_stride = weights_.block(layer).qkv.rows;
  params.out = output == AttentionOutput::kFloats ? attended_.as<float>() : nullptr;
  params.out_half = output == AttentionOutput::kFloats ? nullptr : half_.as<uint16_t>();
  params.out_stride = config_.q_size();
  params.out_block_rows = output == AttentionOutput::kBlocks ? cuda::ActivationBlockRows(rows) : 0;
  params.k_cache = Keys(layer);
  params.v_cache = Values(layer);
  params.block_tables = inputs.block_tables;
  params.block_table_stride = inputs.block_table_stride;
  params.row_starts = inputs.row_starts;
  params.start_positions = inputs.start_position;
  params.max_rows = rows;
  params.max_sequences = 1;
  return CudaStatus(cuda::LaunchAttentionPrefill(params, stream_, !shape_.portable), "prefill attention");
}

absl::Status CudaForward::Gemm(const cuda::DeviceNestedMatrix& w, int bits, const uint16_t* x, int rows, float* y,
                               bool accumulate) {
  cuda::PrefillGemmParams params;
  params.matrix = w;
  params.bits = bits;
  params.x = x;
  params.x_stride = w.cols;
  params.num_rows = rows;
  params.y = y;
  params.y_stride = w.rows;
  params.accumulate = accumulate;
  params.workspace = gemm_workspace_.as<void>();
  params.workspace_bytes = gemm_workspace_.bytes();
  return CudaStatus(cuda::LaunchPrefillGemm(params, cublas_, stream_), "prefill product");
}

absl::Status CudaForward::LaunchFusedBlock(const PassInputs& inputs, int64_t layer, int rows,
                                           absl::Span<const uint8_t> bits) {
  const DeviceBlock& block = weights_.block(layer);
  const auto group = static_cast<size_t>(LayerGroupIndex(static_cast<int>(layer), LayerGroupKind::kQkv));
  const int64_t hidden = config_.hidden_size;
  const int64_t inner = config_.intermediate_size;
  float* const residual = hidden_.as<float>();
  float* const row_scale = row_scale_.as<float>();
  const cuda::RowOutput halves{nullptr, half_.as<uint16_t>(), row_scale, 0, cuda::ActivationBlockRows(rows)};
  const auto norm = [&](const float* weight) {
    const cuda::RmsNormParams params{residual, hidden, weight,  static_cast<float>(config_.rms_norm_eps),
                                     hidden,   halves, nullptr, rows};
    return cuda::LaunchRmsNorm(params, stream_, true);
  };
  const auto multiply = [&](const cuda::DeviceNestedMatrix& w, size_t of_layer, const float* scale, const float* bias,
                            cuda::GemvEpilogue epilogue, float* y, int64_t stride) {
    const cuda::FusedGemmParams params{
        w, bits[group + of_layer], half_.as<uint16_t>(), scale, rows, epilogue, bias, y, stride, {}};
    return cuda::LaunchFusedGemm(params, stream_, true);
  };

  FQ_RETURN_IF_CUDA_ERROR(norm(block.attention_norm));
  FQ_RETURN_IF_CUDA_ERROR(
      multiply(block.qkv, 0, row_scale, block.qkv_bias, cuda::GemvEpilogue::kStore, qkv_.as<float>(), block.qkv.rows));
  FQ_RETURN_IF_ERROR(LaunchRopeKv(inputs, layer, rows, nullptr, /*one_sequence=*/true));
  FQ_RETURN_IF_ERROR(LaunchAttentionPrefill(inputs, layer, rows, AttentionOutput::kBlocks));
  FQ_RETURN_IF_CUDA_ERROR(multiply(block.o, 1, nullptr, block.o_bias, ResidualEpilogue(), residual, hidden));
  FQ_RETURN_IF_ERROR(LaunchSum(inputs, rows));

  FQ_RETURN_IF_CUDA_ERROR(norm(block.mlp_norm));
  FQ_RETURN_IF_CUDA_ERROR(multiply(block.gate_up, 2, row_scale, block.gate_up_bias, cuda::GemvEpilogue::kSiluMul,
                                   inner_.as<float>(), inner));
  const cuda::ConvertParams convert{inner_.as<float>(), inner, inner, halves, nullptr, rows};
  FQ_RETURN_IF_CUDA_ERROR(cuda::LaunchConvert(convert, stream_, true));
  FQ_RETURN_IF_CUDA_ERROR(multiply(block.down, 3, row_scale, block.down_bias, ResidualEpilogue(), residual, hidden));
  return LaunchSum(inputs, rows);
}

absl::Status CudaForward::LaunchLargeBlock(const PassInputs& inputs, int64_t layer, int rows,
                                           absl::Span<const uint8_t> bits) {
  const DeviceBlock& block = weights_.block(layer);
  const auto group = static_cast<size_t>(LayerGroupIndex(static_cast<int>(layer), LayerGroupKind::kQkv));
  const int64_t hidden = config_.hidden_size;
  const int64_t inner = config_.intermediate_size;
  float* const residual = hidden_.as<float>();
  uint16_t* const half = half_.as<uint16_t>();
  float* const row_scale = row_scale_.as<float>();
  const auto norm = [&](const float* weight) {
    cuda::RmsNormParams params{
        residual, hidden, weight, static_cast<float>(config_.rms_norm_eps), hidden, {nullptr, half, row_scale, hidden},
        nullptr,  rows};
    return cuda::LaunchRmsNorm(params, stream_);
  };
  const auto rescale = [&](float* x, int64_t cols, bool inverse) {
    return cuda::LaunchScaleRows({x, cols, row_scale, inverse, cols, nullptr, rows}, stream_);
  };
  const auto add_bias = [&](const float* bias) {
    return bias == nullptr ? cudaSuccess
                           : cuda::LaunchAdd({residual, hidden, nullptr, 0, bias, hidden, nullptr, rows}, stream_);
  };

  FQ_RETURN_IF_CUDA_ERROR(norm(block.attention_norm));
  FQ_RETURN_IF_ERROR(Gemm(block.qkv, bits[group], half, rows, qkv_.as<float>(), false));
  FQ_RETURN_IF_CUDA_ERROR(rescale(qkv_.as<float>(), block.qkv.rows, false));
  FQ_RETURN_IF_ERROR(LaunchRopeKv(inputs, layer, rows, block.qkv_bias, /*one_sequence=*/true));
  FQ_RETURN_IF_ERROR(LaunchAttentionPrefill(inputs, layer, rows, AttentionOutput::kHalves));
  FQ_RETURN_IF_ERROR(Gemm(block.o, bits[group + 1], half, rows, residual, FirstRank()));
  FQ_RETURN_IF_CUDA_ERROR(add_bias(block.o_bias));
  FQ_RETURN_IF_ERROR(LaunchSum(inputs, rows));

  FQ_RETURN_IF_CUDA_ERROR(norm(block.mlp_norm));
  FQ_RETURN_IF_ERROR(Gemm(block.gate_up, bits[group + 2], half, rows, inner_.as<float>(), false));
  FQ_RETURN_IF_CUDA_ERROR(rescale(inner_.as<float>(), 2 * inner, false));
  const cuda::SiluMulParams silu{
      inner_.as<float>(), 2 * inner, block.gate_up_bias, inner, {nullptr, half, row_scale, inner}, nullptr, rows};
  FQ_RETURN_IF_CUDA_ERROR(cuda::LaunchSiluMul(silu, stream_));
  FQ_RETURN_IF_CUDA_ERROR(rescale(residual, hidden, true));
  FQ_RETURN_IF_ERROR(Gemm(block.down, bits[group + 3], half, rows, residual, FirstRank()));
  FQ_RETURN_IF_CUDA_ERROR(rescale(residual, hidden, false));
  FQ_RETURN_IF_CUDA_ERROR(add_bias(block.down_bias));
  return LaunchSum(inputs, rows);
}

}  // namespace flexquant::executor
