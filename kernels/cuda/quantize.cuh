#ifndef FLEXQUANT_KERNELS_CUDA_QUANTIZE_CUH_
#define FLEXQUANT_KERNELS_CUDA_QUANTIZE_CUH_

// RMS norm and quantisation of activations by a block of kQuantizeThreads threads, the same bits wherever it runs.

#include <cstdint>

namespace flexquant::cuda {

inline constexpr int kQuantizeThreads = 256;

struct ActivationInput {
  const float* x;
  int64_t ldx;
  int cols;
  const float* norm_weight;
  float norm_eps;
  float inverse_cols;  // 1 / cols
  int group_blocks;
  bool vectors;  // rows are 16-byte aligned and cols is a multiple of 4
};

// Where the columns of a launch go: values [blocks][columns][64], scales [blocks][scale_columns].
struct ActivationOutput {
  int8_t* values;
  float2* scales;
  int columns;
  int scale_columns;
  int blocks;
};

// A thread has a quarter of a block of 64 columns: block threadIdx.x / 4 of every kQuantizeThreads / 4 (a pass), and of
// it, with q = threadIdx.x % 4, columns 16 j + 4 q .. 16 j + 4 q + 3 for j = 0..3.
inline constexpr int kPassBlocks = kQuantizeThreads / 4;
inline constexpr int kPassCols = kPassBlocks * 64;
struct Quarter {
  float4 v[4];
};

// Elements k .. k + 3 of a row that cannot be read as vectors, or of the norm's weights; zero past the end. Not
// inlined: code that a launch jumps over costs instruction fetches.
static __device__ __noinline__ float4 LoadScalars(const float* row, int k, int cols) {
  const auto load = [=](int i) { return i < cols ? __ldcg(row + i) : 0.0F; };
  return make_float4(load(k), load(k + 1), load(k + 2), load(k + 3));
}

// This thread's quarter of pass `pass` of a row; zero past the row's end. Activations are read from L2: the previous
// kernel wrote them.
// Only if in.vectors.
__device__ __forceinline__ Quarter LoadVectors(const float* row, int pass, const ActivationInput& in) {
  const int t = static_cast<int>(threadIdx.x);
  const int k = pass * kPassCols + t / 4 * 64 + t % 4 * 4;
  Quarter result;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    result.v[j] =
        k + 16 * j < in.cols ? __ldcg(reinterpret_cast<const float4*>(row + k + 16 * j)) : make_float4(0, 0, 0, 0);
  }
  return result;
}

__device__ __forceinline__ Quarter LoadQuarter(const float* row, int pass, const ActivationInput& in) {
  if (in.vectors) {
    return LoadVectors(row, pass, in);
  }
  const int t = static_cast<int>(threadIdx.x);
  const int k = pass * kPassCols + t / 4 * 64 + t % 4 * 4;
  Quarter result;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    result.v[j] = LoadScalars(row, k + 16 * j, in.cols);
  }
  return result;
}

__device__ __forceinline__ float AddSquares(const Quarter& quarter, float sum) {
#pragma unroll
  for (const float4& v : quarter.v) {
    sum = __fmaf_rn(v.x, v.x, sum);
    sum = __fmaf_rn(v.y, v.y, sum);
    sum = __fmaf_rn(v.z, v.z, sum);
    sum = __fmaf_rn(v.w, v.w, sum);
  }
  return sum;
}

__device__ __forceinline__ float WarpSum(float sum) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    sum = __fadd_rn(sum, __shfl_xor_sync(0xFFFFFFFFU, sum, step));
  }
  return sum;
}

// This warp's part of the row's sum of squares, on every lane. `first`: of pass 0.
template <bool kVectors>
__device__ __forceinline__ float WarpSquares(const ActivationInput& in, const float* x, const Quarter& first) {
  float sum = AddSquares(first, 0.0F);
#pragma unroll 1
  for (int pass = 1; pass * kPassCols < in.cols; ++pass) {
    sum = AddSquares(kVectors ? LoadVectors(x, pass, in) : LoadQuarter(x, pass, in), sum);
  }
  return WarpSum(sum);
}

// 1 / RMS from the parts of the block's warps.
__device__ __forceinline__ float InverseNorm(const ActivationInput& in, const float* warp_squares) {
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kQuantizeThreads / 32; ++warp) {
    sum = __fadd_rn(sum, warp_squares[warp]);
  }
  return rsqrtf(__fmaf_rn(sum, in.inverse_cols, in.norm_eps));
}

// 2^23 + 2^22: a sum with it is rounded to an integer (to nearest even), whose low bits are the sum's.
inline constexpr float kRound = 12582912.0F;

// 1 / scale, nearly correctly rounded; 0 for 0.
__device__ __forceinline__ float Inverse(float scale) {
  float inverse = 0;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(scale));
  inverse = __fmaf_rn(inverse, __fmaf_rn(-inverse, scale, 1.0F), inverse);
  return scale == 0 ? 0.0F : inverse;
}

// value / scale, correctly rounded but for rare last bits (a Newton step from the rounded inverse).
__device__ __forceinline__ float Quotient(float value, float scale, float inverse) {
  const float q = __fmul_rn(value, inverse);
  return __fmaf_rn(__fmaf_rn(-q, scale, value), inverse, q);
}

// Rounded quotients, plus kRound.
__device__ __forceinline__ Quarter Rounded(const Quarter& quarter, float scale) {
  const float inverse = Inverse(scale);
  const auto round = [=](float x) { return __fadd_rn(Quotient(x, scale, inverse), kRound); };
  Quarter result;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float4& v = quarter.v[j];
    result.v[j] = make_float4(round(v.x), round(v.y), round(v.z), round(v.w));
  }
  return result;
}

// Stores a quarter of one column's values (given plus kRound), and the block's scale and sum.
__device__ __forceinline__ void StoreQuarter(const ActivationOutput& out, int block, int column, const Quarter& rounded,
                                             float scale) {
  const int q = static_cast<int>(threadIdx.x) % 4;
  uint32_t packed[4];
  int sum = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float4& v = rounded.v[j];
    const uint32_t low = __byte_perm(__float_as_uint(v.x), __float_as_uint(v.y), 0x0040);
    const uint32_t high = __byte_perm(__float_as_uint(v.z), __float_as_uint(v.w), 0x0040);
    packed[j] = __byte_perm(low, high, 0x5410);
    sum = __dp4a(static_cast<int>(packed[j]), 0x01010101, sum);
  }
  sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 1);
  sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 2);
  if (block < out.blocks) {
    auto* words = reinterpret_cast<uint32_t*>(out.values) + (block * out.columns + column) * 16 + q;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      words[4 * j] = packed[j];
    }
    if (q == 0) {
      out.scales[block * out.scale_columns + column] = make_float2(scale, static_cast<float>(sum));
    }
  }
}

// `split`: two columns a row; `fine`: 15 bits, else the second column is zero. A group below kTiny counts as zero.
__device__ __forceinline__ void QuantizeQuarter(const ActivationOutput& out, int block, int column,
                                                const Quarter& quarter, int group_blocks, bool split, bool fine) {
  constexpr float kTiny = 1e-20F;
  float max = 0;
#pragma unroll
  for (const float4& v : quarter.v) {
    max = fmaxf(max, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
  }
  max = fmaxf(max, __shfl_xor_sync(0xFFFFFFFFU, max, 1));
  max = fmaxf(max, __shfl_xor_sync(0xFFFFFFFFU, max, 2));
  const float neighbour = __shfl_xor_sync(0xFFFFFFFFU, max, 4);
  max = group_blocks == 2 ? fmaxf(max, neighbour) : max;
  const float scale = max < kTiny ? 0.0F : Quotient(max, 127.0F, 1.0F / 127.0F);
  const Quarter rounded = Rounded(quarter, scale);
  StoreQuarter(out, block, column, rounded, scale);
  if (!split) {
    return;
  }
  const float low_scale = fine ? __fmul_rn(scale, 1.0F / 128.0F) : 0.0F;
  const auto rest = [scale](float value, float code) { return __fmaf_rn(-__fsub_rn(code, kRound), scale, value); };
  Quarter rests;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float4& v = quarter.v[j];
    const float4& code = rounded.v[j];
    rests.v[j] = make_float4(rest(v.x, code.x), rest(v.y, code.y), rest(v.z, code.z), rest(v.w, code.w));
  }
  StoreQuarter(out, block, column + 1, Rounded(rests, low_scale), low_scale);
}

__device__ __forceinline__ Quarter Normed(const Quarter& x, float inverse, const Quarter& weight) {
  Quarter result;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float4& v = x.v[j];
    const float4& w = weight.v[j];
    result.v[j] = make_float4(__fmul_rn(__fmul_rn(v.x, inverse), w.x), __fmul_rn(__fmul_rn(v.y, inverse), w.y),
                              __fmul_rn(__fmul_rn(v.z, inverse), w.z), __fmul_rn(__fmul_rn(v.w, inverse), w.w));
  }
  return result;
}

// Quantises a whole row, which must allow vectors, by the whole thread block; normalised if there are norm weights, of
// which `weight` is pass 0. `squares`: shared, a float a warp. Contains a block barrier if there is a norm. One loop
// that is not unrolled: threads go over it a few times only, so fetching its code is a part of what it costs.
__device__ __forceinline__ void QuantizeRow(const ActivationInput& in, int row, bool split, bool fine,
                                            const ActivationOutput& out, int column, Quarter weight, float* squares) {
  const float* x = in.x + row * in.ldx;
  const bool norm = in.norm_weight != nullptr;
  Quarter next = LoadVectors(x, 0, in);
  float inverse = 1.0F;
  if (norm) {
    const float part = WarpSquares<true>(in, x, next);
    if (threadIdx.x % 32 == 0) {
      squares[threadIdx.x / 32] = part;
    }
    __syncthreads();
    inverse = InverseNorm(in, squares);
  }
#pragma unroll 1
  for (int pass = 0; pass * kPassBlocks < out.blocks; ++pass) {
    const Quarter quarter = norm ? Normed(next, inverse, weight) : next;
    if ((pass + 1) * kPassCols < in.cols) {
      next = LoadVectors(x, pass + 1, in);
      if (norm) {
        weight = LoadVectors(in.norm_weight, pass + 1, in);
      }
    }
    QuantizeQuarter(out, pass * kPassBlocks + static_cast<int>(threadIdx.x) / 4, column, quarter, in.group_blocks,
                    split, fine);
  }
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_QUANTIZE_CUH_
