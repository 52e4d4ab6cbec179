#include <algorithm>

#include "kernels/cuda/attention_decode.h"
#include "kernels/cuda/attention_decode_tiles.cuh"
#include "kernels/cuda/attention_generic.h"

namespace flexquant::cuda {
namespace {

using namespace decode;  // NOLINT: its names are this file's own

constexpr int kThreads = 32 * kWarps;
constexpr int kTargetBlocks = 256;  // about two a multiprocessor
constexpr int kMaxParts = 128;

// In the workspace, each part [rows, heads, splits]: unscaled outputs [head_dim], then (maximum, sum), then arrivals.
struct Workspace {
  float* out;
  float2* state;
  unsigned* arrivals;  // [rows, num_kv_heads * chunks of heads], 0 between launches
};

__host__ __device__ int HeadChunks(const AttentionDecodeParams& p) {
  return (p.num_heads / p.num_kv_heads + kHeadsPerBlock - 1) / kHeadsPerBlock;
}

__host__ __device__ Workspace Divide(const AttentionDecodeParams& p) {
  const int64_t parts = static_cast<int64_t>(p.max_rows) * p.num_heads * p.max_splits;
  Workspace w;
  w.out = static_cast<float*>(p.workspace);
  w.state = reinterpret_cast<float2*>(w.out + parts * p.head_dim);
  w.arrivals = reinterpret_cast<unsigned*>(w.state + parts);
  return w;
}

// Writes a warp's state to its own part of shared memory: [heads, head_dim] outputs, maxima and sums.
template <int kHeadDim>
__device__ void SpillState(int lane, State<kHeadDim>& state, float* out, float2* max_sum) {
  const int g = lane / 4;
  const int head = 2 * (lane % 4);
#pragma unroll
  for (int j = 0; j < Layout<kHeadDim>::kValueChunks; ++j) {
    const int dim = 64 * j + 8 * g;
    if (dim < kHeadDim) {
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const float* x = state.out[j][u];
        *reinterpret_cast<float2*>(out + head * kHeadDim + dim + 2 * u) = {x[0], x[2]};
        *reinterpret_cast<float2*>(out + (head + 1) * kHeadDim + dim + 2 * u) = {x[1], x[3]};
      }
    }
  }
  for (int h = 0; h < 2; ++h) {
    float sum = state.sum[h];
    for (int offset = 4; offset < 32; offset *= 2) {
      sum += __shfl_xor_sync(~0U, sum, offset);
    }
    if (g == 0) {
      max_sum[head + h] = {state.max[h], sum};
    }
  }
}

// Adds up `parts` of one head: weights[i] = 2^(max[i] - max of all), total = sum of weights[i] * sum[i]. One warp.
__device__ float2 PartWeights(const float2* max_sum, int stride, int parts, int lane, float* weights) {
  float max = -INFINITY;
  for (int i = lane; i < parts; i += 32) {
    max = fmaxf(max, __ldcg(&max_sum[i * stride]).x);
  }
  max = WarpMax(max);
  float total = 0;
  for (int i = lane; i < parts; i += 32) {
    const float2 part = __ldcg(&max_sum[i * stride]);
    weights[i] = exp2f(part.x - max);
    total += weights[i] * part.y;
  }
  return {max, WarpSum(total)};
}

// The last block of a row and head adds up the parts of all. The first parts are loaded while the weights are found.
template <int kHeadDim>
__device__ void CombineParts(const AttentionDecodeParams& p, const Workspace& w, int row, int head0, int heads,
                             int parts, float* weights) {
  constexpr int kAhead = 8;
  constexpr int kWords = kHeadDim / 4;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t first = (static_cast<int64_t>(row) * p.num_heads + head0) * p.max_splits;
  const auto load = [&](int i, int part) {
    const float* from = w.out + (first + i / kWords * p.max_splits + part) * kHeadDim + i % kWords * 4;
    return __ldcg(reinterpret_cast<const float4*>(from));
  };
  float4 ahead[kAhead];
#pragma unroll
  for (int part = 0; part < kAhead; ++part) {
    const bool exists = part < parts && static_cast<int>(threadIdx.x) < heads * kWords;
    ahead[part] = exists ? load(static_cast<int>(threadIdx.x), part) : float4{0, 0, 0, 0};
  }
  __shared__ float inverse[kHeadsPerBlock];
  for (int h = warp; h < heads; h += kWarps) {
    const float2 total = PartWeights(w.state + first + h * p.max_splits, 1, parts, lane, weights + h * kMaxParts);
    if (lane == 0) {
      inverse[h] = 1.0F / total.y;
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < heads * kWords; i += kThreads) {
    const int h = i / kWords;
    float4 sum = {0, 0, 0, 0};
    const auto add = [&](const float4& x, float weight) {
      sum = {sum.x + weight * x.x, sum.y + weight * x.y, sum.z + weight * x.z, sum.w + weight * x.w};
    };
#pragma unroll
    for (int part = 0; part < kAhead; ++part) {
      if (part < parts) {
        add(i < kThreads ? ahead[part] : load(i, part), weights[h * kMaxParts + part]);
      }
    }
#pragma unroll 8
    for (int part = kAhead; part < parts; ++part) {
      add(load(i, part), weights[h * kMaxParts + part]);
    }
    const float scale = inverse[h];
    *reinterpret_cast<float4*>(p.out + row * p.out_stride + (head0 + h) * kHeadDim + i % kWords * 4) = {
        sum.x * scale, sum.y * scale, sum.z * scale, sum.w * scale};
  }
}

// Adds up the block's warps; the result goes out, or into the workspace if there are other parts.
template <int kHeadDim>
__device__ void MergeWarps(const AttentionDecodeParams& p, const Workspace& w, int row, int head0, int heads, int parts,
                           const uint8_t* shared, const float2 (&max_sum)[kWarps][kHeadsPerBlock],
                           float (&weights)[kHeadsPerBlock][kWarps], float2 (&total)[kHeadsPerBlock]) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kHeadsPerBlock) {
    float max = -INFINITY;
    for (int i = 0; i < kWarps; ++i) {
      max = fmaxf(max, max_sum[i][thread].x);
    }
    float sum = 0;
    for (int i = 0; i < kWarps; ++i) {
      weights[thread][i] = exp2f(max_sum[i][thread].x - max);
      sum += weights[thread][i] * max_sum[i][thread].y;
    }
    total[thread] = {max, sum};
  }
  __syncthreads();
  for (int i = thread; i < heads * kHeadDim; i += kThreads) {
    const int h = i / kHeadDim;
    float sum = 0;
    for (int from = 0; from < kWarps; ++from) {
      sum += weights[h][from] * reinterpret_cast<const float*>(shared + from * Layout<kHeadDim>::kRingBytes)[i];
    }
    const int dim = i % kHeadDim;
    if (parts == 1) {
      p.out[row * p.out_stride + (head0 + h) * kHeadDim + dim] = sum / total[h].y;
    } else {
      const int64_t at = (static_cast<int64_t>(row) * p.num_heads + head0 + h) * p.max_splits + blockIdx.x;
      w.out[at * kHeadDim + dim] = sum;
      if (dim == 0) {
        w.state[at] = total[h];
      }
    }
  }
}

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads) AttentionDecodeKernel(const AttentionDecodeParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ float2 max_sum[kWarps][kHeadsPerBlock];
  __shared__ float weights[kHeadsPerBlock][kWarps];
  __shared__ float2 total[kHeadsPerBlock];
  __shared__ bool last;
  LaunchDependents();
  if (!p.context_ready) {
    WaitForPreviousGrid();
  }
  const int row = static_cast<int>(blockIdx.z);
  const int position = p.positions[row];  // both loads at once
  const bool active = row < NumRows(p.num_rows, p.max_rows) && position >= 0;
  const Split split = FindSplit(p, active ? position : 0, static_cast<int>(blockIdx.x));
  if (!active || static_cast<int>(blockIdx.x) >= split.count) {
    // Leaving at once instead would let the next grid in early; docs/kernels/cuda_step.md says what that did.
    WaitForPreviousGrid();
    return;
  }
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = p.num_heads / p.num_kv_heads;
  const int chunks = HeadChunks(p);
  const int kv_head = static_cast<int>(blockIdx.y) / chunks;
  const int head0 = kv_head * group + static_cast<int>(blockIdx.y) % chunks * kHeadsPerBlock;
  const int heads = min(kHeadsPerBlock, (kv_head + 1) * group - head0);
  uint8_t* ring = shared + warp * Layout<kHeadDim>::kRingBytes;
  Walk<kHeadDim> walk = {p.block_tables + row * p.block_table_stride, kv_head, lane, ring, split.tile_begin + warp, 0};
  if (walk.BeginsWith(position / kTileTokens)) {
    WaitForPreviousGrid();  // that tile is not complete before
  }
  walk.Begin(p, split);
  WaitForPreviousGrid();
  State<kHeadDim> state;
  LoadQuery<kHeadDim>(p.q + row * p.q_stride + (head0 + lane / 4) * kHeadDim, lane / 4 < heads, p.scale * kLog2E, lane,
                      state);
  walk.Run(p, split, state);
  __syncwarp();
  SpillState<kHeadDim>(lane, state, reinterpret_cast<float*>(ring), max_sum[warp]);
  __syncthreads();
  const Workspace w = Divide(p);
  MergeWarps<kHeadDim>(p, w, row, head0, heads, split.count, shared, max_sum, weights, total);
  if (split.count == 1) {
    return;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    unsigned* arrivals = w.arrivals + row * p.num_kv_heads * chunks + blockIdx.y;
    last = atomicInc(arrivals, static_cast<unsigned>(split.count - 1)) == static_cast<unsigned>(split.count - 1);
    __threadfence();
  }
  __syncthreads();
  if (last) {
    CombineParts<kHeadDim>(p, w, row, head0, heads, split.count, reinterpret_cast<float*>(shared));
  }
}

template <int kHeadDim>
cudaError_t Launch(const AttentionDecodeParams& p, cudaStream_t stream, bool programmatic) {
  constexpr int kBytes = Layout<kHeadDim>::kSharedBytes;
  static_assert(kBytes >= kHeadsPerBlock * kMaxParts * 4);
  const cudaError_t status =
      cudaFuncSetAttribute(AttentionDecodeKernel<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) {
    return status;
  }
  const dim3 grid(static_cast<unsigned>(p.max_splits), static_cast<unsigned>(p.num_kv_heads * HeadChunks(p)),
                  static_cast<unsigned>(p.max_rows));
  return LaunchGrid(AttentionDecodeKernel<kHeadDim>, grid, dim3(kThreads), kBytes, stream, programmatic, 1, p);
}

}  // namespace

int AttentionDecodeMaxSplits(int num_kv_heads) { return std::clamp(kTargetBlocks / num_kv_heads, 4, kMaxParts); }

size_t AttentionDecodeWorkspaceBytes(const AttentionDecodeParams& params) {
  AttentionDecodeParams p = params;
  p.max_splits = p.max_splits > 0 ? p.max_splits : AttentionDecodeMaxSplits(p.num_kv_heads);
  p.workspace = nullptr;
  return reinterpret_cast<size_t>(Divide(p).arrivals) +
         sizeof(unsigned) * static_cast<size_t>(p.max_rows) * static_cast<size_t>(p.num_kv_heads * HeadChunks(p));
}

cudaError_t LaunchAttentionDecode(const AttentionDecodeParams& params, cudaStream_t stream, bool programmatic) {
  AttentionDecodeParams p = params;
  p.max_splits = p.max_splits > 0 ? std::min(p.max_splits, kMaxParts) : AttentionDecodeMaxSplits(p.num_kv_heads);
  if (p.block_tokens % kTileTokens != 0) {
    return LaunchAttentionGeneric(p, stream, programmatic);
  }
  switch (p.head_dim) {
    case 64:
      return Launch<64>(p, stream, programmatic);
    case 80:
      return Launch<80>(p, stream, programmatic);
    case 96:
      return Launch<96>(p, stream, programmatic);
    case 128:
      return Launch<128>(p, stream, programmatic);
    case 256:
      return Launch<256>(p, stream, programmatic);
    default:
      return LaunchAttentionGeneric(p, stream, programmatic);
  }
}

}  // namespace flexquant::cuda
