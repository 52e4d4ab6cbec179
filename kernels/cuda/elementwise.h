#ifndef FLEXQUANT_KERNELS_CUDA_ELEMENTWISE_H_
#define FLEXQUANT_KERNELS_CUDA_ELEMENTWISE_H_

// The small steps between the matrix products of a prefill. All pointers are device memory, matrices row-major fp32
// unless said otherwise; num_rows is a device count or null for max_rows, rows past it are left alone.
//
// Half outputs are what the fp16 GEMM reads: half[row] = value / row_scale[row], where row_scale is a power of two, 1
// unless the row's largest magnitude is outside [2^-6, 2^15], so that nothing overflows and at least 11 bits stay. The
// product has to be multiplied by it: before adding into a residual divide the residual's row (LaunchScaleRows with
// inverse), then multiply the sum. Both are exact and skip rows whose scale is 1, nearly all. The fused product
// (kernels/cuda/prefill_fused.h) does that itself and wants the halves in blocks.

#include <cuda_runtime.h>

#include <cstdint>

namespace flexquant::cuda {

// Where an operation's result goes: exactly one of `values` and `half`.
struct RowOutput {
  float* values = nullptr;     // [max_rows, stride]
  uint16_t* half = nullptr;    // [max_rows, stride] fp16
  float* row_scale = nullptr;  // [max_rows], required with half
  int64_t stride = 0;          // elements
  int64_t block_rows = 0;      // above 0: half is in blocks of so many rows (activation_blocks.h) and has no stride
};

struct RmsNormParams {
  const float* x = nullptr;  // [max_rows, x_stride]
  int64_t x_stride = 0;
  const float* weight = nullptr;  // [cols]
  float eps = 0;
  int64_t cols = 0;
  RowOutput out;  // may be x itself
  const int32_t* num_rows = nullptr;
  int max_rows = 0;
};
// x / sqrt(mean(x^2) + eps) * weight.
cudaError_t LaunchRmsNorm(const RmsNormParams& params, cudaStream_t stream, bool programmatic = false);

struct SiluMulParams {
  const float* gate_up = nullptr;  // [max_rows, stride]: cols gates, then cols ups
  int64_t stride = 0;
  const float* bias = nullptr;  // [2 cols] added first, or null
  int64_t cols = 0;
  RowOutput out;
  const int32_t* num_rows = nullptr;
  int max_rows = 0;
};
// silu(gate) * up.
cudaError_t LaunchSiluMul(const SiluMulParams& params, cudaStream_t stream, bool programmatic = false);

struct ConvertParams {
  const float* x = nullptr;  // [max_rows, x_stride]
  int64_t x_stride = 0;
  int64_t cols = 0;
  RowOutput out;
  const int32_t* num_rows = nullptr;
  int max_rows = 0;
};
// x itself: fp32 to fp16, or a copy.
cudaError_t LaunchConvert(const ConvertParams& params, cudaStream_t stream, bool programmatic = false);

struct AddParams {
  float* x = nullptr;  // [max_rows, stride]
  int64_t stride = 0;
  const float* y = nullptr;     // [max_rows, y_stride], or null
  int64_t y_stride = 0;         // 0: y is one row, a bias
  const float* bias = nullptr;  // [cols], or null
  int64_t cols = 0;
  const int32_t* num_rows = nullptr;
  int max_rows = 0;
};
// x += y + bias.
cudaError_t LaunchAdd(const AddParams& params, cudaStream_t stream, bool programmatic = false);

struct ScaleRowsParams {
  float* x = nullptr;  // [max_rows, stride]
  int64_t stride = 0;
  const float* row_scale = nullptr;  // [max_rows]
  bool inverse = false;
  int64_t cols = 0;
  const int32_t* num_rows = nullptr;
  int max_rows = 0;
};
// x[row] *= row_scale[row], or /=.
cudaError_t LaunchScaleRows(const ScaleRowsParams& params, cudaStream_t stream, bool programmatic = false);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_ELEMENTWISE_H_
