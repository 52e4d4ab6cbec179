#include "kernels/cuda/activation_blocks.h"
#include "kernels/cuda/attention_generic.h"
#include "kernels/cuda/attention_prefill.h"
#include "kernels/cuda/attention_prefill_tiles.cuh"

// Flash attention: a block takes some query tokens of one head, each of its four warps kRowTiles times 16 of them, and
// walks the keys in tiles of 64 that are copied to shared memory one tile ahead. Rows of shared memory are padded by 16
// bytes, which spreads a column of eight rows over all banks.

namespace flexquant::cuda {
namespace {

using namespace prefill;  // NOLINT: its names are this file's own

constexpr int kFullDevice = 400;  // blocks: three a multiprocessor of the largest device

template <int kHeadDim, int kTiles>
struct State {
  float out[Layout<kHeadDim, kTiles>::kRowTiles][kHeadDim / 8][4];
  float max[Layout<kHeadDim, kTiles>::kRowTiles][2];  // of rows lane / 4 and lane / 4 + 8, base 2
  float sum[Layout<kHeadDim, kTiles>::kRowTiles][2];  // this lane's columns only
};

using ScoreTile = float[kKeyTile / 8][4];

template <int kHeadDim, int kTiles>
__device__ void Scores(const __half* queries, const __half* keys, int lane,
                       ScoreTile (&s)[Layout<kHeadDim, kTiles>::kRowTiles]) {
  using L = Layout<kHeadDim, kTiles>;
#pragma unroll
  for (int k = 0; k < kHeadDim; k += 16) {
    uint32_t a[L::kRowTiles][4];
#pragma unroll
    for (int r = 0; r < L::kRowTiles; ++r) {
      LoadMatrices(a[r], queries + (16 * r + lane % 16) * L::kStride + k + lane / 16 * 8);
    }
#pragma unroll
    for (int n = 0; n < kKeyTile / 16; ++n) {
      uint32_t b[4];
      LoadMatrices(b, keys + (16 * n + lane / 16 * 8 + lane % 8) * L::kStride + k + lane / 8 % 2 * 8);
#pragma unroll
      for (int r = 0; r < L::kRowTiles; ++r) {
        MultiplyAdd(s[r][2 * n], a[r][0], a[r][1], a[r][2], a[r][3], b[0], b[1]);
        MultiplyAdd(s[r][2 * n + 1], a[r][0], a[r][1], a[r][2], a[r][3], b[2], b[3]);
      }
    }
  }
}

// Hides what a query at `position` (and the one 8 later) must not see.
__device__ inline void Mask(int window, int position, int key0, int lane, ScoreTile& s) {
#pragma unroll
  for (int n = 0; n < kKeyTile / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = key0 + 8 * n + 2 * (lane % 4) + i % 2;
      const int at = position + i / 2 * 8;
      if (key > at || (window > 0 && key <= at - window)) {
        s[n][i] = -INFINITY;
      }
    }
  }
}

// Turns scores into weights and rescales what was summed so far.
template <int kHeadDim, int kTiles>
__device__ void Soften(State<kHeadDim, kTiles>& state, int r, ScoreTile& s) {
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = state.max[r][half];
#pragma unroll
    for (int n = 0; n < kKeyTile / 8; ++n) {
      max = fmaxf(max, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    }
    max = fmaxf(max, __shfl_xor_sync(~0U, max, 1));
    max = fmaxf(max, __shfl_xor_sync(~0U, max, 2));
    const float base = max == -INFINITY ? 0.0F : max;  // nothing visible yet
    factor[half] = exp2f(state.max[r][half] - base);
    state.max[r][half] = max;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kKeyTile / 8; ++n) {
      s[n][2 * half] = exp2f(s[n][2 * half] - base);
      s[n][2 * half + 1] = exp2f(s[n][2 * half + 1] - base);
      sum += s[n][2 * half] + s[n][2 * half + 1];
    }
    state.sum[r][half] = state.sum[r][half] * factor[half] + sum;
  }
  if (__any_sync(~0U, factor[0] != 1.0F || factor[1] != 1.0F)) {
#pragma unroll
    for (auto& x : state.out[r]) {
      x[0] *= factor[0];
      x[1] *= factor[0];
      x[2] *= factor[1];
      x[3] *= factor[1];
    }
  }
}

template <int kHeadDim, int kTiles>
__device__ void AddValues(const __half* values, int lane, const ScoreTile (&s)[Layout<kHeadDim, kTiles>::kRowTiles],
                          State<kHeadDim, kTiles>& state) {
  using L = Layout<kHeadDim, kTiles>;
#pragma unroll
  for (int k = 0; k < kKeyTile / 16; ++k) {
    uint32_t a[L::kRowTiles][4];
#pragma unroll
    for (int r = 0; r < L::kRowTiles; ++r) {
      const float* low = s[r][2 * k];
      const float* high = s[r][2 * k + 1];
      a[r][0] = PackHalves(low[0], low[1]);
      a[r][1] = PackHalves(low[2], low[3]);
      a[r][2] = PackHalves(high[0], high[1]);
      a[r][3] = PackHalves(high[2], high[3]);
    }
#pragma unroll
    for (int n = 0; n < kHeadDim / 16; ++n) {
      uint32_t b[4];
      LoadMatricesTransposed(b, values + (16 * k + lane % 16) * L::kStride + 16 * n + lane / 16 * 8);
#pragma unroll
      for (int r = 0; r < L::kRowTiles; ++r) {
        MultiplyAdd(state.out[r][2 * n], a[r][0], a[r][1], a[r][2], a[r][3], b[0], b[1]);
        MultiplyAdd(state.out[r][2 * n + 1], a[r][0], a[r][1], a[r][2], a[r][3], b[2], b[3]);
      }
    }
  }
}

template <int kHeadDim, int kTiles>
__device__ void Store(const AttentionPrefillParams& p, const Work& work, int head, int warp_row, int lane,
                      State<kHeadDim, kTiles>& state) {
#pragma unroll
  for (int r = 0; r < Layout<kHeadDim, kTiles>::kRowTiles; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = state.sum[r][half];
      sum += __shfl_xor_sync(~0U, sum, 1);
      sum += __shfl_xor_sync(~0U, sum, 2);
      const int row = warp_row + 16 * r + 8 * half + lane / 4;
      if (row >= work.rows) {
        continue;
      }
      const float inverse = 1.0F / sum;
      const int first = head * kHeadDim + 2 * (lane % 4);
      const int64_t at = (work.row + row) * p.out_stride + first;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        const float2 x = {state.out[r][n][2 * half] * inverse, state.out[r][n][2 * half + 1] * inverse};
        if (p.out_block_rows > 0) {
          uint16_t* to = p.out_half + ActivationPair(p.out_block_rows, work.row + row, first + 8 * n);
          *reinterpret_cast<uint32_t*>(to) = PackHalves(x.x, x.y);
        } else if (p.out_half != nullptr) {
          *reinterpret_cast<uint32_t*>(p.out_half + at + 8 * n) = PackHalves(x.x, x.y);
        } else {
          *reinterpret_cast<float2*>(p.out + at + 8 * n) = x;
        }
      }
    }
  }
}

template <int kHeadDim, int kTiles>
__global__ void __launch_bounds__(kThreads) AttentionPrefillKernel(const AttentionPrefillParams p) {
  using L = Layout<kHeadDim, kTiles>;
  extern __shared__ __align__(128) __half shared[];
  LaunchDependents();
  WaitForPreviousGrid();
  const Work work = FindWork(p, L::kQueryTile, static_cast<int>(blockIdx.y));
  if (work.rows == 0) {
    return;
  }
  const auto head = static_cast<int>(blockIdx.x);
  const int kv_head = head / (p.num_heads / p.num_kv_heads);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * 16 * L::kRowTiles;
  __half* keys = shared + L::kQueryTile * L::kStride;
  __half* values = keys + kStages * L::kTileHalves;
  CopyTile<kHeadDim>(p, work, kv_head, work.key_begin, keys, values);
  CommitCopies();
  LoadQueries<kHeadDim, kTiles>(p, work, head, shared);
  State<kHeadDim, kTiles> state = {};
  for (auto& max : state.max) {
    max[0] = max[1] = -INFINITY;
  }
  int stage = 0;
  for (int key0 = work.key_begin; key0 < work.key_end; key0 += kKeyTile, stage ^= 1) {
    if (key0 + kKeyTile < work.key_end) {
      CopyTile<kHeadDim>(p, work, kv_head, key0 + kKeyTile, keys + (stage ^ 1) * L::kTileHalves,
                         values + (stage ^ 1) * L::kTileHalves);
    }
    CommitCopies();
    WaitForCopies<1>();
    __syncthreads();
    ScoreTile s[L::kRowTiles] = {};
    Scores<kHeadDim, kTiles>(shared + warp_row * L::kStride, keys + stage * L::kTileHalves, lane, s);
#pragma unroll
    for (int r = 0; r < L::kRowTiles; ++r) {
      const int position = work.position + warp_row + 16 * r;
      if (key0 + kKeyTile - 1 > position || (p.sliding_window > 0 && key0 <= position + 15 - p.sliding_window)) {
        Mask(p.sliding_window, position + lane / 4, key0, lane, s[r]);
      }
      Soften<kHeadDim, kTiles>(state, r, s[r]);
    }
    AddValues<kHeadDim, kTiles>(values + stage * L::kTileHalves, lane, s, state);
    __syncthreads();
  }
  Store<kHeadDim, kTiles>(p, work, head, warp_row, lane, state);
}

template <int kHeadDim, int kTiles>
cudaError_t Launch(const AttentionPrefillParams& p, cudaStream_t stream, bool programmatic) {
  using L = Layout<kHeadDim, kTiles>;
  const cudaError_t status = cudaFuncSetAttribute(AttentionPrefillKernel<kHeadDim, kTiles>,
                                                  cudaFuncAttributeMaxDynamicSharedMemorySize, L::kSharedBytes);
  if (status != cudaSuccess) {
    return status;
  }
  // At most this many tiles, however the rows are spread over the sequences.
  const int tiles = p.max_rows / L::kQueryTile + p.max_sequences;
  // The longest tiles of all heads start first.
  const dim3 grid(static_cast<unsigned>(p.num_heads), static_cast<unsigned>(tiles));
  return LaunchGrid(AttentionPrefillKernel<kHeadDim, kTiles>, grid, dim3(kThreads), L::kSharedBytes, stream,
                    programmatic, 1, p);
}

// Two row tiles a warp do more work a key; one fills the device with fewer rows.
template <int kHeadDim>
cudaError_t LaunchFor(const AttentionPrefillParams& p, cudaStream_t stream, bool programmatic) {
  const int64_t blocks = static_cast<int64_t>(p.max_rows) * p.num_heads / Layout<kHeadDim, 2>::kQueryTile;
  return blocks > kFullDevice ? Launch<kHeadDim, 2>(p, stream, programmatic)
                              : Launch<kHeadDim, 1>(p, stream, programmatic);
}

}  // namespace

cudaError_t LaunchAttentionPrefill(const AttentionPrefillParams& p, cudaStream_t stream, bool programmatic) {
  const int64_t cols = static_cast<int64_t>(p.num_heads) * p.head_dim;
  if (p.out_block_rows > 0 && cols % kActivationBlockCols != 0) {
    const int64_t block = p.out_block_rows * kActivationBlockCols;
    const cudaError_t status = cudaMemsetAsync(p.out_half + cols / kActivationBlockCols * block, 0,
                                               static_cast<size_t>(block) * sizeof(uint16_t), stream);
    if (status != cudaSuccess) {
      return status;
    }
  }
  if ((p.block_tokens & (p.block_tokens - 1)) != 0) {
    return LaunchAttentionGeneric(p, stream, programmatic);
  }
  switch (p.head_dim) {
    case 64:
      return LaunchFor<64>(p, stream, programmatic);
    case 80:
      return LaunchFor<80>(p, stream, programmatic);
    case 96:
      return LaunchFor<96>(p, stream, programmatic);
    case 128:
      return LaunchFor<128>(p, stream, programmatic);
    case 256:
      return Launch<256, 1>(p, stream, programmatic);
    default:
      return LaunchAttentionGeneric(p, stream, programmatic);
  }
}

}  // namespace flexquant::cuda
