#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/ops_common.cuh"

namespace flexquant::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kSmallest = 0x1p-6F;
constexpr float kLargest = 0x1p15F;

// A power of two that brings `max` (not negative) into half's comfortable range.
__device__ float RowScale(float max) {
  if (!(max > kLargest || (max < kSmallest && max > 0)) || !isfinite(max)) {
    return 1.0F;
  }
  // Largest magnitude in [2^9, 2^10): far from both ends.
  int exponent;
  frexpf(max, &exponent);
  return ldexpf(1.0F, ::max(-120, ::min(120, exponent - 10)));
}

// Stores value(col) for all columns of one row by one block, which calls it twice for halves.
template <class Function>
__device__ void StoreRow(const RowOutput& out, int64_t row, int64_t cols, float* scratch, Function value) {
  if (out.half == nullptr) {
    for (int64_t col = threadIdx.x; col < cols; col += kThreads) {
      out.values[row * out.stride + col] = value(col);
    }
    return;
  }
  float max = 0;
  for (int64_t col = threadIdx.x; col < cols; col += kThreads) {
    max = fmaxf(max, fabsf(value(col)));
  }
  const float scale = RowScale(BlockMax(max, scratch));
  const float inverse = 1.0F / scale;
  for (int64_t col = threadIdx.x; col < cols; col += kThreads) {
    reinterpret_cast<__half*>(out.half)[row * out.stride + col] = __float2half_rn(value(col) * inverse);
  }
  if (threadIdx.x == 0) {
    out.row_scale[row] = scale;
  }
}

__global__ void __launch_bounds__(kThreads) RmsNormKernel(const RmsNormParams p) {
  __shared__ float scratch[32];
  LaunchDependents();
  WaitForPreviousGrid();
  const auto row = static_cast<int64_t>(blockIdx.x);
  if (row >= NumRows(p.num_rows, p.max_rows)) {
    return;
  }
  const float* x = p.x + row * p.x_stride;
  float sum = 0;
  for (int64_t col = threadIdx.x; col < p.cols; col += kThreads) {
    sum += x[col] * x[col];
  }
  const float scale = 1.0F / sqrtf(BlockSum(sum, scratch) / static_cast<float>(p.cols) + p.eps);
  StoreRow(p.out, row, p.cols, scratch, [&](int64_t col) { return x[col] * scale * p.weight[col]; });
}

__global__ void __launch_bounds__(kThreads) SiluMulKernel(const SiluMulParams p) {
  __shared__ float scratch[32];
  LaunchDependents();
  WaitForPreviousGrid();
  const auto row = static_cast<int64_t>(blockIdx.x);
  if (row >= NumRows(p.num_rows, p.max_rows)) {
    return;
  }
  const float* gate = p.gate_up + row * p.stride;
  StoreRow(p.out, row, p.cols, scratch, [&](int64_t col) {
    const float g = gate[col] + (p.bias != nullptr ? p.bias[col] : 0.0F);
    const float u = gate[p.cols + col] + (p.bias != nullptr ? p.bias[p.cols + col] : 0.0F);
    return g / (1.0F + expf(-g)) * u;
  });
}

__global__ void __launch_bounds__(kThreads) ConvertKernel(const ConvertParams p) {
  __shared__ float scratch[32];
  LaunchDependents();
  WaitForPreviousGrid();
  const auto row = static_cast<int64_t>(blockIdx.x);
  if (row >= NumRows(p.num_rows, p.max_rows)) {
    return;
  }
  const float* x = p.x + row * p.x_stride;
  StoreRow(p.out, row, p.cols, scratch, [&](int64_t col) { return x[col]; });
}

__global__ void __launch_bounds__(kThreads) AddKernel(const AddParams p) {
  LaunchDependents();
  WaitForPreviousGrid();
  const auto row = static_cast<int64_t>(blockIdx.x);
  if (row >= NumRows(p.num_rows, p.max_rows)) {
    return;
  }
  for (int64_t col = threadIdx.x; col < p.cols; col += kThreads) {
    float x = p.x[row * p.stride + col];
    if (p.y != nullptr) {
      x += p.y[row * p.y_stride + col];
    }
    if (p.bias != nullptr) {
      x += p.bias[col];
    }
    p.x[row * p.stride + col] = x;
  }
}

__global__ void __launch_bounds__(kThreads) ScaleRowsKernel(const ScaleRowsParams p) {
  LaunchDependents();
  WaitForPreviousGrid();
  const auto row = static_cast<int64_t>(blockIdx.x);
  if (row >= NumRows(p.num_rows, p.max_rows) || p.row_scale[row] == 1.0F) {
    return;
  }
  const float scale = p.inverse ? 1.0F / p.row_scale[row] : p.row_scale[row];
  for (int64_t col = threadIdx.x; col < p.cols; col += kThreads) {
    p.x[row * p.stride + col] *= scale;
  }
}

template <class Params>
cudaError_t LaunchRows(void (*kernel)(Params), const Params& params, cudaStream_t stream, bool programmatic) {
  return LaunchGrid(kernel, dim3(static_cast<unsigned>(params.max_rows)), dim3(kThreads), 0, stream, programmatic, 1,
                    params);
}

}  // namespace

cudaError_t LaunchRmsNorm(const RmsNormParams& params, cudaStream_t stream, bool programmatic) {
  return LaunchRows<RmsNormParams>(RmsNormKernel, params, stream, programmatic);
}

cudaError_t LaunchSiluMul(const SiluMulParams& params, cudaStream_t stream, bool programmatic) {
  return LaunchRows<SiluMulParams>(SiluMulKernel, params, stream, programmatic);
}

cudaError_t LaunchConvert(const ConvertParams& params, cudaStream_t stream, bool programmatic) {
  return LaunchRows<ConvertParams>(ConvertKernel, params, stream, programmatic);
}

cudaError_t LaunchAdd(const AddParams& params, cudaStream_t stream, bool programmatic) {
  return LaunchRows<AddParams>(AddKernel, params, stream, programmatic);
}

cudaError_t LaunchScaleRows(const ScaleRowsParams& params, cudaStream_t stream, bool programmatic) {
  return LaunchRows<ScaleRowsParams>(ScaleRowsKernel, params, stream, programmatic);
}

}  // namespace flexquant::cuda
