#include "kernels/cuda/activation_blocks.h"
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

// Stores value(col) for all columns of one row by one block as halves in blocks; pair(col) is value(col) and value(col
// + 1), col even. What a thread has of the first 14336 columns stays in registers between finding the largest and
// storing; others are asked for again.
template <class Value, class Pair>
__device__ void StoreRowInBlocks(const RowOutput& out, int64_t row, int64_t cols, float* scratch, Value value,
                                 Pair pair) {
  constexpr int kKept = 7;
  const int64_t chunks = (cols + kActivationBlockCols - 1) / kActivationBlockCols * 8;
  const auto load = [&](int64_t chunk, float(&x)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      const int64_t col = chunk / 8 * kActivationBlockCols + 8 * i + chunk % 8 * 2;
      const float2 both = col + 1 < cols ? pair(col) : float2{col < cols ? value(col) : 0.0F, 0.0F};
      x[i] = both.x;
      x[i + 1] = both.y;
    }
  };
  float max = 0;
  const auto consider = [&](const float(&x)[8]) {
#pragma unroll
    for (const float each : x) {
      max = fmaxf(max, fabsf(each));
    }
  };
  float kept[kKept][8];
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    if (const int64_t chunk = threadIdx.x + k * kThreads; chunk < chunks) {
      load(chunk, kept[k]);
      consider(kept[k]);
    }
  }
  float x[8];
  for (int64_t chunk = threadIdx.x + kKept * kThreads; chunk < chunks; chunk += kThreads) {
    load(chunk, x);
    consider(x);
  }
  const float scale = RowScale(BlockMax(max, scratch));
  const float inverse = 1.0F / scale;
  const auto store = [&](int64_t chunk, const float(&y)[8]) {
    *reinterpret_cast<uint4*>(out.half + ActivationChunk(out.block_rows, row, chunk / 8, chunk % 8)) = {
        PackHalves(y[0] * inverse, y[1] * inverse), PackHalves(y[2] * inverse, y[3] * inverse),
        PackHalves(y[4] * inverse, y[5] * inverse), PackHalves(y[6] * inverse, y[7] * inverse)};
  };
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    if (const int64_t chunk = threadIdx.x + k * kThreads; chunk < chunks) {
      store(chunk, kept[k]);
    }
  }
  for (int64_t chunk = threadIdx.x + kKept * kThreads; chunk < chunks; chunk += kThreads) {
    load(chunk, x);
    store(chunk, x);
  }
  if (threadIdx.x == 0) {
    out.row_scale[row] = scale;
  }
}

// Two floats at once where rows allow it.
__device__ bool PairsAligned(const float* x) { return reinterpret_cast<uintptr_t>(x) % sizeof(float2) == 0; }
__device__ float2 LoadPair(const float* x, bool aligned) {
  return aligned ? *reinterpret_cast<const float2*>(x) : float2{x[0], x[1]};
}

// Stores value(col) for all columns of one row by one block, which calls it or pair (above) twice for halves.
template <class Value, class Pair>
__device__ void StoreRow(const RowOutput& out, int64_t row, int64_t cols, float* scratch, Value value, Pair pair) {
  if (out.half == nullptr) {
    for (int64_t col = threadIdx.x; col < cols; col += kThreads) {
      out.values[row * out.stride + col] = value(col);
    }
    return;
  }
  if (out.block_rows > 0) {
    StoreRowInBlocks(out, row, cols, scratch, value, pair);
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
  const bool aligned = PairsAligned(x) && PairsAligned(p.weight);
  const auto value = [&](int64_t col) { return x[col] * scale * p.weight[col]; };
  StoreRow(p.out, row, p.cols, scratch, value, [&](int64_t col) {
    const float2 both = LoadPair(x + col, aligned);
    const float2 weight = LoadPair(p.weight + col, aligned);
    return float2{both.x * scale * weight.x, both.y * scale * weight.y};
  });
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
  const auto value = [&](int64_t col) {
    const float g = gate[col] + (p.bias != nullptr ? p.bias[col] : 0.0F);
    const float u = gate[p.cols + col] + (p.bias != nullptr ? p.bias[p.cols + col] : 0.0F);
    return g / (1.0F + expf(-g)) * u;
  };
  StoreRow(p.out, row, p.cols, scratch, value, [&](int64_t col) { return float2{value(col), value(col + 1)}; });
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
  const bool aligned = PairsAligned(x);
  const auto value = [&](int64_t col) { return x[col]; };
  StoreRow(p.out, row, p.cols, scratch, value, [&](int64_t col) { return LoadPair(x + col, aligned); });
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
