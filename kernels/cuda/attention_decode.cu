#include <algorithm>

#include "kernels/cuda/attention_decode.h"
#include "kernels/cuda/attention_decode_rope.cuh"
#include "kernels/cuda/attention_decode_tiles.cuh"
#include "kernels/cuda/attention_generic.h"

namespace flexquant::cuda {
namespace {

using namespace decode;  // NOLINT: its names are this file's own

constexpr int kThreads = 32 * kWarps;
// One a multiprocessor: of one sequence, all are resident beside the kernels before and behind them.
constexpr int kTargetBlocks = 128;
// Rows from which on rings are short: the product in front then does not leave half of an SM by itself.
constexpr int kManyRowsFrom = 3;
constexpr size_t kSystemShared = 1024;  // of a block

// In the workspace. Arrivals are at the same place whatever the number of rows: launches of other sizes must not write
// there.
struct Workspace {
  unsigned* arrivals;  // [kAttentionDecodeMaxRows, num_kv_heads * chunks of heads], 0 between launches
  float* out;          // [rows, heads, parts, head_dim], unscaled
  float2* state;       // [rows, heads, parts]: maximum, sum
};

int HeadChunks(const AttentionDecodeParams& p) {
  return (p.num_heads / p.num_kv_heads + kHeadsPerBlock - 1) / kHeadsPerBlock;
}

__host__ __device__ Workspace Divide(const AttentionDecodeParams& p, int chunks) {
  Workspace w;
  w.arrivals = static_cast<unsigned*>(p.workspace);
  w.out = reinterpret_cast<float*>(w.arrivals + kAttentionDecodeMaxRows * p.num_kv_heads * chunks);
  w.state =
      reinterpret_cast<float2*>(w.out + static_cast<int64_t>(p.max_rows) * p.num_heads * p.max_splits * p.head_dim);
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

__device__ __forceinline__ float4 AddScaled(float4 sum, float weight, const float4& x) {
  return {sum.x + weight * x.x, sum.y + weight * x.y, sum.z + weight * x.z, sum.w + weight * x.w};
}

// The last block of a row and head adds up the parts of all. Its first parts are loaded while the weights are found.
template <int kHeadDim>
__device__ __forceinline__ void CombineParts(const AttentionDecodeParams& p, const Workspace& w, int row, int head0,
                                             int heads, int parts, float* weights) {
  constexpr int kAhead = 8;
  constexpr int kWords = kHeadDim / 4;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int64_t first = (static_cast<int64_t>(row) * p.num_heads + head0) * p.max_splits;
  for (int h = thread / 32; h < heads; h += kWarps) {
    const float2 part = lane < parts ? __ldcg(w.state + first + h * p.max_splits + lane) : float2{-INFINITY, 0.0F};
    const float weight = Exp2(part.x - WarpMax(part.x));
    weights[h * kMaxParts + lane] = __fdividef(weight, WarpSum(weight * part.y));
  }
  __syncthreads();
#pragma unroll 1
  for (int i = thread; i < heads * kWords; i += kThreads) {
    const int h = i / kWords;
    const float* from = w.out + (first + h * p.max_splits) * kHeadDim + i % kWords * 4;
    float4 sum = {0, 0, 0, 0};
#pragma unroll 1
    for (int part = 0; part < parts; part += kAhead) {
      float4 x[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        x[j] = part + j < parts ? __ldcg(reinterpret_cast<const float4*>(from + (part + j) * kHeadDim))
                                : float4{0, 0, 0, 0};
      }
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        sum = AddScaled(sum, weights[h * kMaxParts + part + j], x[j]);
      }
    }
    *reinterpret_cast<float4*>(p.out + row * p.out_stride + (head0 + h) * kHeadDim + i % kWords * 4) = sum;
  }
}

// Weights of the block's warps in the sum of its part, and that part's (maximum, sum).
struct WarpWeights {
  float2 max_sum[kWarps][kHeadsPerBlock];
  float weights[kHeadsPerBlock][kWarps];
  float2 total[kHeadsPerBlock];
};

// Adds up the block's warps; the result goes out, or into the workspace if there are other parts.
template <int kHeadDim, bool kManyRows>
__device__ __forceinline__ void MergeWarps(const AttentionDecodeParams& p, const Workspace& w, int row, int head0,
                                           int heads, int parts, const uint8_t* shared, WarpWeights& merge) {
  constexpr int kWords = kHeadDim / 4;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kHeadsPerBlock * kWarps) {  // one warp: lanes of a head are kHeadsPerBlock apart
    const int h = thread % kHeadsPerBlock;
    const float2 mine = merge.max_sum[thread / kHeadsPerBlock][h];
    float max = mine.x;
    max = fmaxf(max, __shfl_xor_sync(~0U, max, kHeadsPerBlock));
    max = fmaxf(max, __shfl_xor_sync(~0U, max, 2 * kHeadsPerBlock));
    const float weight = Exp2(mine.x - max);
    float sum = weight * mine.y;
    sum += __shfl_xor_sync(~0U, sum, kHeadsPerBlock);
    sum += __shfl_xor_sync(~0U, sum, 2 * kHeadsPerBlock);
    merge.weights[h][thread / kHeadsPerBlock] = parts == 1 ? __fdividef(weight, sum) : weight;
    merge.total[h] = {max, sum};
  }
  static_assert(kHeadsPerBlock * kWarps == 32);
  __syncthreads();
#pragma unroll 1
  for (int i = thread; i < heads * kWords; i += kThreads) {
    const int h = i / kWords;
    float4 sum = {0, 0, 0, 0};
#pragma unroll
    for (int from = 0; from < kWarps; ++from) {
      sum = AddScaled(sum, merge.weights[h][from],
                      reinterpret_cast<const float4*>(shared + from * Ring<kHeadDim, kManyRows>::kBytes)[i]);
    }
    const int word = i % kWords;
    if (parts == 1) {
      *reinterpret_cast<float4*>(p.out + row * p.out_stride + (head0 + h) * kHeadDim + word * 4) = sum;
    } else {
      const int64_t at = (static_cast<int64_t>(row) * p.num_heads + head0 + h) * p.max_splits + blockIdx.x;
      *reinterpret_cast<float4*>(w.out + at * kHeadDim + word * 4) = sum;
      if (word == 0) {
        w.state[at] = merge.total[h];
      }
    }
  }
}

template <int kHeadDim, bool kManyRows>
__global__ void __launch_bounds__(kThreads) AttentionDecodeKernel(const __grid_constant__ DecodeArgs args) {
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ Heads<kHeadDim> made;
  __shared__ WarpWeights merge;
  __shared__ bool last;
  const AttentionDecodeParams& p = args.p;
  LaunchDependents();
  if (!p.context_ready) {
    WaitForPreviousGrid();
  }
  const int row = static_cast<int>(blockIdx.z);
  const int position = p.positions[row];  // both loads at once
  const bool active = row < NumRows(p.num_rows, p.max_rows) && position >= 0;
  const Split split = FindSplit(p, active ? position : 0, static_cast<int>(blockIdx.x));
  if (!active || static_cast<int>(blockIdx.x) >= split.count) {
    WaitForPreviousGrid();
    return;
  }
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int kv_head = args.chunks == 1 ? static_cast<int>(blockIdx.y) : static_cast<int>(blockIdx.y) / args.chunks;
  const int chunk = static_cast<int>(blockIdx.y) - kv_head * args.chunks;
  const int head0 = kv_head * args.group + chunk * kHeadsPerBlock;
  const int heads = min(kHeadsPerBlock, (kv_head + 1) * args.group - head0);
  uint8_t* ring = shared + warp * Ring<kHeadDim, kManyRows>::kBytes;
  State<kHeadDim> state;
  const bool makes_newest = split.cached_end < split.end && split.end <= split.tile_end * kTileTokens;
  const BlockHeads block = {row, position, kv_head, head0, heads, makes_newest, makes_newest && chunk == 0};
  WalkTiles<kHeadDim, kManyRows>(args, split, p.block_tables + row * p.block_table_stride, kv_head, heads, warp, lane,
                                 ring, made, state, [&] { MakeHeads<kHeadDim>(args, block, warp, lane, made); });
  __syncwarp();
  SpillState<kHeadDim>(lane, state, reinterpret_cast<float*>(ring), merge.max_sum[warp]);
  __syncthreads();
  const Workspace w = Divide(p, args.chunks);
  MergeWarps<kHeadDim, kManyRows>(p, w, row, head0, heads, split.count, shared, merge);
  if (split.count == 1) {
    return;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    unsigned* arrivals = w.arrivals + row * p.num_kv_heads * args.chunks + blockIdx.y;
    last = atomicInc(arrivals, static_cast<unsigned>(split.count - 1)) == static_cast<unsigned>(split.count - 1);
    __threadfence();
  }
  __syncthreads();
  if (last) {
    CombineParts<kHeadDim>(p, w, row, head0, heads, split.count, reinterpret_cast<float*>(shared));
  }
}

template <int kHeadDim, bool kManyRows>
cudaError_t LaunchKernel(const AttentionDecodeParams& p, cudaStream_t stream, bool programmatic) {
  constexpr int kBytes = Ring<kHeadDim, kManyRows>::kSharedBytes;
  static_assert(kBytes >= kHeadsPerBlock * kMaxParts * 4);
  const cudaError_t status = cudaFuncSetAttribute(AttentionDecodeKernel<kHeadDim, kManyRows>,
                                                  cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) {
    return status;
  }
  DecodeArgs args = {p, p.num_heads / p.num_kv_heads, HeadChunks(p), 0};
  while (1 << args.block_shift < p.block_tokens) {
    ++args.block_shift;
  }
  const dim3 grid(static_cast<unsigned>(p.max_splits), static_cast<unsigned>(p.num_kv_heads * args.chunks),
                  static_cast<unsigned>(p.max_rows));
  return LaunchGrid(AttentionDecodeKernel<kHeadDim, kManyRows>, grid, dim3(kThreads), kBytes, stream, programmatic, 1,
                    args);
}

template <int kHeadDim>
cudaError_t Launch(const AttentionDecodeParams& p, cudaStream_t stream, bool programmatic) {
  return p.max_rows >= kManyRowsFrom ? LaunchKernel<kHeadDim, true>(p, stream, programmatic)
                                     : LaunchKernel<kHeadDim, false>(p, stream, programmatic);
}

template <int kHeadDim>
size_t SharedBytes(const AttentionDecodeParams& p) {
  const int ring =
      p.max_rows >= kManyRowsFrom ? Ring<kHeadDim, true>::kSharedBytes : Ring<kHeadDim, false>::kSharedBytes;
  return static_cast<size_t>(ring) + sizeof(Heads<kHeadDim>) + sizeof(WarpWeights) + sizeof(float4) + kSystemShared;
}

}  // namespace

int AttentionDecodeMaxSplits(int num_kv_heads) { return std::clamp(kTargetBlocks / num_kv_heads, 4, kMaxParts); }

size_t AttentionDecodeWorkspaceBytes(const AttentionDecodeParams& params) {
  AttentionDecodeParams p = params;
  p.max_splits = p.max_splits > 0 ? p.max_splits : AttentionDecodeMaxSplits(p.num_kv_heads);
  p.workspace = nullptr;
  return reinterpret_cast<size_t>(Divide(p, HeadChunks(p)).state) +
         sizeof(float2) * static_cast<size_t>(p.max_rows) * static_cast<size_t>(p.num_heads * p.max_splits);
}

bool AttentionDecodeRotates(const AttentionDecodeParams& p) {
  const bool fast = p.head_dim == 64 || p.head_dim == 80 || p.head_dim == 96 || p.head_dim == 128 || p.head_dim == 256;
  return fast && p.block_tokens >= kTileTokens && (p.block_tokens & (p.block_tokens - 1)) == 0;
}

size_t AttentionDecodeSharedBytes(const AttentionDecodeParams& p) {
  if (!AttentionDecodeRotates(p)) {
    return 0;
  }
  switch (p.head_dim) {
    case 64:
      return SharedBytes<64>(p);
    case 80:
      return SharedBytes<80>(p);
    case 96:
      return SharedBytes<96>(p);
    case 128:
      return SharedBytes<128>(p);
    default:
      return SharedBytes<256>(p);
  }
}

cudaError_t LaunchAttentionDecode(const AttentionDecodeParams& params, cudaStream_t stream, bool programmatic) {
  AttentionDecodeParams p = params;
  p.max_splits = p.max_splits > 0 ? std::min(p.max_splits, kMaxParts) : AttentionDecodeMaxSplits(p.num_kv_heads);
  if (!AttentionDecodeRotates(p)) {
    return p.rope.table == nullptr ? LaunchAttentionGeneric(p, stream, programmatic) : cudaErrorInvalidValue;
  }
  if (p.max_rows > kAttentionDecodeMaxRows) {
    return cudaErrorInvalidValue;
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
    default:
      return Launch<256>(p, stream, programmatic);
  }
}

}  // namespace flexquant::cuda
