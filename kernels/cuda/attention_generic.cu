#include "kernels/cuda/activation_blocks.h"
#include "kernels/cuda/attention_generic.h"
#include "kernels/cuda/ops_common.cuh"

namespace flexquant::cuda {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr int kDimsPerLane = kMaxHeadDim / 32;

// One query token and head.
struct Query {
  const float* q;  // [head_dim]
  const uint32_t* table;
  int position;
  int head;
};

// What both kinds of call have in common.
struct Cache {
  const uint16_t* keys;
  const uint16_t* values;
  int num_heads;
  int num_kv_heads;
  int head_dim;
  int block_tokens;
  int window;
  float scale;
};

template <class Params>
Cache CacheOf(const Params& p) {
  return {p.k_cache, p.v_cache, p.num_heads, p.num_kv_heads, p.head_dim, p.block_tokens, p.sliding_window, p.scale};
}

__device__ int64_t Offset(const Cache& cache, const Query& query, int token) {
  const int kv_head = query.head / (cache.num_heads / cache.num_kv_heads);
  const int64_t block = query.table[token / cache.block_tokens];
  return ((block * cache.num_kv_heads + kv_head) * cache.block_tokens + token % cache.block_tokens) * cache.head_dim;
}

// Of a token's key, by one lane.
__device__ float Score(const Cache& cache, const float* q, const uint16_t* key) {
  float sum = 0;
  for (int d = 0; d < cache.head_dim; d += 4) {
    const uint2 word = *reinterpret_cast<const uint2*>(key + d);
    const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&word.x));
    const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&word.y));
    sum += q[d] * low.x + q[d + 1] * low.y + q[d + 2] * high.x + q[d + 3] * high.y;
  }
  return sum * cache.scale;
}

// One warp; lane i gets outputs i, i + 32, ... Returns 1 / sum of weights, by which they are still to be multiplied.
__device__ float Attend(const Cache& cache, const Query& query, int lane, float (&out)[kDimsPerLane]) {
  float max = -INFINITY;
  float sum = 0;
  for (float& x : out) {
    x = 0;
  }
  const int first = cache.window > 0 ? ::max(0, query.position - cache.window + 1) : 0;
  for (int begin = first; begin <= query.position; begin += 32) {
    const int token = begin + lane;
    const bool visible = token <= query.position;
    const int64_t offset = visible ? Offset(cache, query, token) : 0;
    const float score = visible ? Score(cache, query.q, cache.keys + offset) : -INFINITY;
    const float new_max = fmaxf(max, WarpMax(score));
    const float factor = expf(max - new_max);
    const float weight = expf(score - new_max);
    max = new_max;
    sum = sum * factor + WarpSum(weight);
    for (float& x : out) {
      x *= factor;
    }
    for (int i = 0; i < ::min(32, query.position + 1 - begin); ++i) {
      const float w = __shfl_sync(~0U, weight, i);
      const auto* value =
          reinterpret_cast<const __half*>(cache.values + __shfl_sync(~0U, static_cast<long long>(offset), i));
#pragma unroll
      for (int k = 0; k < kDimsPerLane; ++k) {
        const int d = lane + 32 * k;
        out[k] += d < cache.head_dim ? w * __half2float(value[d]) : 0.0F;
      }
    }
  }
  return 1.0F / sum;
}

__global__ void __launch_bounds__(32) GenericDecodeKernel(const AttentionDecodeParams p, const Cache cache) {
  LaunchDependents();
  WaitForPreviousGrid();
  const auto row = static_cast<int>(blockIdx.y);
  if (row >= NumRows(p.num_rows, p.max_rows) || p.positions[row] < 0) {
    return;
  }
  const auto head = static_cast<int>(blockIdx.x);
  const Query query = {p.q + row * p.q_stride + head * p.head_dim, p.block_tables + row * p.block_table_stride,
                       p.positions[row], head};
  float out[kDimsPerLane];
  const auto lane = static_cast<int>(threadIdx.x);
  const float inverse = Attend(cache, query, lane, out);
  for (int k = 0; k < kDimsPerLane; ++k) {
    if (lane + 32 * k < p.head_dim) {
      p.out[row * p.out_stride + head * p.head_dim + lane + 32 * k] = out[k] * inverse;
    }
  }
}

__global__ void __launch_bounds__(32) GenericPrefillKernel(const AttentionPrefillParams p, const Cache cache) {
  LaunchDependents();
  WaitForPreviousGrid();
  const auto row = static_cast<int>(blockIdx.y);
  const int sequences = NumRows(p.num_sequences, p.max_sequences);
  if (row >= p.row_starts[sequences]) {
    return;
  }
  int sequence = 0;
  while (row >= p.row_starts[sequence + 1]) {
    ++sequence;
  }
  const auto head = static_cast<int>(blockIdx.x);
  const Query query = {p.q + row * p.q_stride + head * p.head_dim, p.block_tables + sequence * p.block_table_stride,
                       p.start_positions[sequence] + row - p.row_starts[sequence], head};
  float out[kDimsPerLane];
  const auto lane = static_cast<int>(threadIdx.x);
  const float inverse = Attend(cache, query, lane, out);
  for (int k = 0; k < kDimsPerLane; ++k) {
    if (lane + 32 * k < p.head_dim) {
      const int col = head * p.head_dim + lane + 32 * k;
      const int64_t at =
          p.out_block_rows > 0 ? ActivationPair(p.out_block_rows, row, col) + col % 2 : row * p.out_stride + col;
      if (p.out_half != nullptr) {
        reinterpret_cast<__half*>(p.out_half)[at] = __float2half_rn(out[k] * inverse);
      } else {
        p.out[at] = out[k] * inverse;
      }
    }
  }
}

bool Supported(int head_dim) { return head_dim > 0 && head_dim % 4 == 0 && head_dim <= kMaxHeadDim; }

}  // namespace

cudaError_t LaunchAttentionGeneric(const AttentionDecodeParams& params, cudaStream_t stream, bool programmatic) {
  if (!Supported(params.head_dim)) {
    return cudaErrorInvalidValue;
  }
  const dim3 grid(static_cast<unsigned>(params.num_heads), static_cast<unsigned>(params.max_rows));
  return LaunchGrid(GenericDecodeKernel, grid, dim3(32), 0, stream, programmatic, 1, params, CacheOf(params));
}

cudaError_t LaunchAttentionGeneric(const AttentionPrefillParams& params, cudaStream_t stream, bool programmatic) {
  if (!Supported(params.head_dim)) {
    return cudaErrorInvalidValue;
  }
  const dim3 grid(static_cast<unsigned>(params.num_heads), static_cast<unsigned>(params.max_rows));
  return LaunchGrid(GenericPrefillKernel, grid, dim3(32), 0, stream, programmatic, 1, params, CacheOf(params));
}

}  // namespace flexquant::cuda
