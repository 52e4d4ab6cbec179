#ifndef FLEXQUANT_KERNELS_CUDA_ATTENTION_PREFILL_TILES_CUH_
#define FLEXQUANT_KERNELS_CUDA_ATTENTION_PREFILL_TILES_CUH_

// What a block of the prefill attention works on, and how that gets into shared memory.

#include "kernels/cuda/attention_prefill.h"
#include "kernels/cuda/ops_common.cuh"

namespace flexquant::cuda::prefill {

inline constexpr int kWarps = 4;
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kKeyTile = 64;
inline constexpr int kStages = 2;
inline constexpr float kLog2E = 1.44269504F;

template <int kHeadDim, int kTiles>
struct Layout {
  static constexpr int kRowTiles = kTiles;
  static constexpr int kQueryTile = 16 * kRowTiles * kWarps;
  static constexpr int kStride = kHeadDim + 8;  // halves
  static constexpr int kTileHalves = kKeyTile * kStride;
  static constexpr int kSharedBytes = 2 * (kQueryTile * kStride + 2 * kStages * kTileHalves);
};

// The query tokens of a block.
struct Work {
  int sequence;
  int row;        // first
  int rows;       // 0 = none
  int position;   // of the first
  int key_begin;  // multiple of kKeyTile
  int key_first;  // visible to the first query
  int key_end;
  int block_shift;  // block_tokens = 2^block_shift
};

// Longest contexts first: they take longest.
__device__ inline Work FindWork(const AttentionPrefillParams& p, int query_tile, int index) {
  const int sequences = NumRows(p.num_sequences, p.max_sequences);
  Work work = {};
  for (int s = 0; s < sequences; ++s) {
    const int begin = p.row_starts[s];
    const int count = p.row_starts[s + 1] - begin;
    const int tiles = (count + query_tile - 1) / query_tile;
    if (index < tiles) {
      const int first = (tiles - 1 - index) * query_tile;
      work.sequence = s;
      work.row = begin + first;
      work.rows = min(query_tile, count - first);
      work.position = p.start_positions[s] + first;
      work.key_first = p.sliding_window > 0 ? max(0, work.position - p.sliding_window + 1) : 0;
      work.key_begin = work.key_first / kKeyTile * kKeyTile;
      work.key_end = work.position + work.rows;
      work.block_shift = __ffs(p.block_tokens) - 1;
      return work;
    }
    index -= tiles;
  }
  return work;
}

template <int kHeadDim, int kTiles>
__device__ void LoadQueries(const AttentionPrefillParams& p, const Work& work, int head, __half* shared) {
  using L = Layout<kHeadDim, kTiles>;
  constexpr int kWords = kHeadDim / 4;
  const float scale = p.scale * kLog2E;
  for (int i = static_cast<int>(threadIdx.x); i < L::kQueryTile * kWords; i += kThreads) {
    const int row = i / kWords;
    const int dim = i % kWords * 4;
    float4 x = {0, 0, 0, 0};
    if (row < work.rows) {
      x = *reinterpret_cast<const float4*>(p.q + (work.row + row) * p.q_stride + head * kHeadDim + dim);
    }
    *reinterpret_cast<uint2*>(shared + row * L::kStride + dim) = {PackHalves(x.x * scale, x.y * scale),
                                                                  PackHalves(x.z * scale, x.w * scale)};
  }
}

// Keys and values of 64 positions; zeros where no query looks, since the cache may hold anything there.
template <int kHeadDim>
__device__ void CopyTile(const AttentionPrefillParams& p, const Work& work, int kv_head, int key0, __half* keys,
                         __half* values) {
  constexpr int kWords = kHeadDim / 8;
  constexpr int kStride = Layout<kHeadDim, 1>::kStride;
  const uint32_t* table = p.block_tables + work.sequence * p.block_table_stride;
  const int mask = p.block_tokens - 1;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kKeyTile * kWords; i += kThreads) {
    const int row = i / kWords;
    const int dim = i % kWords * 8;
    const int key = key0 + row;
    const bool valid = key >= work.key_first && key < work.key_end;
    int64_t from = 0;
    if (valid) {
      const uint32_t block = table[key >> work.block_shift];
      const uint32_t token = ((block * p.num_kv_heads + kv_head) << work.block_shift) + (key & mask);
      from = static_cast<int64_t>(token) * kHeadDim + dim;
    }
    CopyAsync16(keys + row * kStride + dim, p.k_cache + from, valid);
    CopyAsync16(values + row * kStride + dim, p.v_cache + from, valid);
  }
}

}  // namespace flexquant::cuda::prefill

#endif  // FLEXQUANT_KERNELS_CUDA_ATTENTION_PREFILL_TILES_CUH_
