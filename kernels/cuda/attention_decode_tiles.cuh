#ifndef FLEXQUANT_KERNELS_CUDA_ATTENTION_DECODE_TILES_CUH_
#define FLEXQUANT_KERNELS_CUDA_ATTENTION_DECODE_TILES_CUH_

// How a warp of the decode attention walks its part of a context.
//
// A warp works on tiles of 16 tokens. Scores are S^T = K Q^T with up to eight heads of one key head as columns, outputs
// O^T = V^T P^T. Dimensions are permuted (alike in both operands) so that what a lane needs of K and V are whole
// 16-byte words; its words of V are interleaved in registers. Every warp has a ring of tiles in shared memory of its
// own, so no block-wide barrier is needed.
//
// A warp runs this code a few times a launch, so what counts is how many instructions there are to fetch: loops are
// rolled where registers allow, divisions are made on the host.

#include "kernels/cuda/attention_decode.h"
#include "kernels/cuda/ops_common.cuh"

namespace flexquant::cuda::decode {

inline constexpr int kWarps = 4;
inline constexpr int kTileTokens = 16;
// Tiles of a part: few where a context is short, for latency, but then more before there are more parts, for
// throughput.
inline constexpr int kMinTiles = 8;
inline constexpr int kGoodTiles = 16;
inline constexpr int kHeadsPerBlock = 8;
inline constexpr int kLaneWord = 16;  // bytes
inline constexpr int kMaxParts = 32;  // of a context: one a lane
inline constexpr float kLog2E = 1.44269504F;

// A launch: its parameters and what follows from them.
struct DecodeArgs {
  AttentionDecodeParams p;
  int group;        // heads a key head
  int chunks;       // blocks a key head and part
  int block_shift;  // log2 of block_tokens
};

__device__ inline float Exp2(float x) {
  float y = 0;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <int kHeadDim>
struct Layout {
  static constexpr int kKeyChunks = (kHeadDim + 31) / 32;
  static constexpr int kValueChunks = (kHeadDim + 63) / 64;
  // Rows of shared memory are padded so that the words of values a quarter of a warp reads lie in different banks.
  static constexpr int kRowBytes = 2 * kHeadDim + kLaneWord;
  static constexpr int kTileBytes = kTileTokens * kRowBytes;
  static constexpr int kStageBytes = 2 * kTileBytes;  // keys, values
  static_assert(kHeadDim % 16 == 0);
};

// The rings of a block's warps. Few rows: long ones, since a block has an SM nearly to itself. Many rows: short ones,
// so that three blocks fit into an SM, or one beside the kernel in front.
template <int kHeadDim, bool kManyRows>
struct Ring {
  static constexpr int kStages = kHeadDim <= 64 ? 4 : (kHeadDim <= 128 && !kManyRows ? 3 : 2);
  static constexpr int kBytes = kStages * Layout<kHeadDim>::kStageBytes;
  static constexpr int kSharedBytes = kWarps * kBytes;
  static_assert(kBytes >= kHeadsPerBlock * kHeadDim * 4);
};

// Part of a context that a block works on, in tokens and tiles.
struct Split {
  int first;  // first visible token
  int end;
  int cached_end;  // tokens the cache holds: the newest one may be on its way
  int tile_begin;
  int tile_end;
  int count;  // parts of this context
};

__device__ inline Split FindSplit(const AttentionDecodeParams& p, int position, int split) {
  Split s;
  s.first = p.sliding_window > 0 ? max(0, position - p.sliding_window + 1) : 0;
  s.end = position + 1;
  s.cached_end = p.rope.table == nullptr ? s.end : position;
  const int begin = s.first / kTileTokens;
  const int tiles = (s.end + kTileTokens - 1) / kTileTokens - begin;
  const int least = (tiles + p.max_splits - 1) / p.max_splits;
  int per_split = max(least, min(kGoodTiles, max(kMinTiles, 2 * least)));
  per_split = (per_split + kWarps - 1) / kWarps * kWarps;
  s.count = (tiles + per_split - 1) / per_split;
  s.tile_begin = begin + split * per_split;
  s.tile_end = min(begin + tiles, s.tile_begin + per_split);
  return s;
}

// What a block makes of the qkv product (attention_decode_rope.cuh).
template <int kHeadDim>
struct Heads {
  // Rows are padded so that lanes of different heads read different banks.
  static constexpr int kStride = kHeadDim + 32;
  // Scaled queries: fp16, and what that leaves.
  alignas(16) __half q_high[kHeadsPerBlock * kStride];
  alignas(16) __half q_low[kHeadsPerBlock * kStride];
  // The newest key and value; only if the cache does not hold them.
  alignas(16) __half key[kHeadDim];
  alignas(16) __half value[kHeadDim];
};

// What a lane keeps while its warp walks its tiles.
template <int kHeadDim>
struct State {
  uint4 q_high[Layout<kHeadDim>::kKeyChunks];  // of head lane / 4
  uint4 q_low[Layout<kHeadDim>::kKeyChunks];
  float out[Layout<kHeadDim>::kValueChunks][4][4];
  float max[2] = {-INFINITY, -INFINITY};  // of heads 2 (lane % 4) + {0, 1}, base 2
  float sum[2] = {0, 0};                  // this lane's tokens only
};

template <int kHeadDim>
__device__ void InitState(const Heads<kHeadDim>& heads, bool valid, int lane, State<kHeadDim>& state) {
#pragma unroll
  for (int j = 0; j < Layout<kHeadDim>::kKeyChunks; ++j) {
    const int dim = 32 * j + 8 * (lane % 4);
    const int at = lane / 4 * Heads<kHeadDim>::kStride + dim;
    const bool exists = valid && dim < kHeadDim;
    state.q_high[j] = exists ? *reinterpret_cast<const uint4*>(heads.q_high + at) : uint4{0, 0, 0, 0};
    state.q_low[j] = exists ? *reinterpret_cast<const uint4*>(heads.q_low + at) : uint4{0, 0, 0, 0};
  }
#pragma unroll
  for (auto& chunk : state.out) {
#pragma unroll
    for (auto& tile : chunk) {
#pragma unroll
      for (float& x : tile) {
        x = 0;
      }
    }
  }
}

// Keys and values of a tile, which lie next to each other in the cache; zeros for tokens that are not visible or not
// there yet.
template <int kHeadDim>
__device__ void CopyTile(const DecodeArgs& args, const Split& split, uint32_t block, int kv_head, int tile, int lane,
                         uint8_t* stage) {
  using L = Layout<kHeadDim>;
  constexpr int kRowWords = kHeadDim / 8;
  const int token0 = tile * kTileTokens;
  const int in_block = token0 & ((1 << args.block_shift) - 1);
  const int64_t base =
      (((static_cast<int64_t>(block) * args.p.num_kv_heads + kv_head) << args.block_shift) + in_block) * kHeadDim;
  const int low = split.first - token0;
  const int high = split.cached_end - token0;
#pragma unroll 1
  for (int word = lane; word < kTileTokens * kRowWords; word += 32) {
    const int token = word / kRowWords;
    const bool valid = token >= low && token < high;
    const int64_t from = base + word * 8;
    uint8_t* to = stage + token * L::kRowBytes + word % kRowWords * kLaneWord;
    CopyAsync16(to, args.p.k_cache + from, valid);
    CopyAsync16(to + L::kTileBytes, args.p.v_cache + from, valid);
  }
}

// 16 bytes of a row from dimension `dim` on; zeros past its end.
template <int kHeadDim>
__device__ uint4 LoadWord(const uint8_t* rows, int token, int dim) {
  const uint8_t* from = rows + token * Layout<kHeadDim>::kRowBytes + 2 * dim;
  return dim < kHeadDim ? *reinterpret_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
}

// Scores of a tile: s[0], s[1] token lane / 4, s[2], s[3] token lane / 4 + 8.
template <int kHeadDim>
__device__ void Scores(const uint8_t* stage, int lane, const State<kHeadDim>& state, float (&s)[4]) {
  float sums[3][4] = {};  // independent, so that products overlap
#pragma unroll
  for (int j = 0; j < Layout<kHeadDim>::kKeyChunks; ++j) {
    const int dim = 32 * j + 8 * (lane % 4);
    const uint4 a = LoadWord<kHeadDim>(stage, lane / 4, dim);
    const uint4 b = LoadWord<kHeadDim>(stage, lane / 4 + 8, dim);
    MultiplyAdd(s, a.x, b.x, a.y, b.y, state.q_high[j].x, state.q_high[j].y);
    MultiplyAdd(sums[0], a.x, b.x, a.y, b.y, state.q_low[j].x, state.q_low[j].y);
    MultiplyAdd(sums[1], a.z, b.z, a.w, b.w, state.q_high[j].z, state.q_high[j].w);
    MultiplyAdd(sums[2], a.z, b.z, a.w, b.w, state.q_low[j].z, state.q_low[j].w);
  }
  for (int i = 0; i < 4; ++i) {
    s[i] = (s[i] + sums[1][i]) + (sums[0][i] + sums[2][i]);
  }
}

template <int kHeadDim>
__device__ void AddValues(const uint8_t* values, int lane, uint32_t p0, uint32_t p1, State<kHeadDim>& state) {
#pragma unroll
  for (int j = 0; j < Layout<kHeadDim>::kValueChunks; ++j) {
    uint4 v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[i] = LoadWord<kHeadDim>(values, 2 * (lane % 4) + i % 2 + i / 2 * 8, 64 * j + 8 * (lane / 4));
    }
    const uint32_t words[4][4] = {{v[0].x, v[1].x, v[2].x, v[3].x},
                                  {v[0].y, v[1].y, v[2].y, v[3].y},
                                  {v[0].z, v[1].z, v[2].z, v[3].z},
                                  {v[0].w, v[1].w, v[2].w, v[3].w}};
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      const uint32_t* w = words[u];
      MultiplyAdd(state.out[j][u], __byte_perm(w[0], w[1], 0x5410), __byte_perm(w[0], w[1], 0x7632),
                  __byte_perm(w[2], w[3], 0x5410), __byte_perm(w[2], w[3], 0x7632), p0, p1);
    }
  }
}

template <int kHeadDim>
__device__ void AddTile(const Split& split, int tile, const uint8_t* stage, int lane, State<kHeadDim>& state) {
  float s[4] = {0, 0, 0, 0};
  Scores<kHeadDim>(stage, lane, state, s);
  const int token = tile * kTileTokens + lane / 4;
  const bool visible[2] = {token >= split.first && token < split.end,
                           token + 8 >= split.first && token + 8 < split.end};
  float factor[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    s[h] = visible[0] ? s[h] : -INFINITY;
    s[2 + h] = visible[1] ? s[2 + h] : -INFINITY;
    float max = fmaxf(s[h], s[2 + h]);
    for (int offset = 4; offset < 32; offset *= 2) {
      max = fmaxf(max, __shfl_xor_sync(~0U, max, offset));
    }
    max = fmaxf(max, state.max[h]);  // finite: a tile has at least one visible token
    factor[h] = Exp2(state.max[h] - max);
    state.max[h] = max;
    s[h] = Exp2(s[h] - max);
    s[2 + h] = Exp2(s[2 + h] - max);
    state.sum[h] = state.sum[h] * factor[h] + s[h] + s[2 + h];
  }
  if (__any_sync(~0U, factor[0] != 1.0F || factor[1] != 1.0F)) {
#pragma unroll
    for (auto& chunk : state.out) {
#pragma unroll
      for (auto& x : chunk) {
        x[0] *= factor[0];
        x[1] *= factor[1];
        x[2] *= factor[0];
        x[3] *= factor[1];
      }
    }
  }
  const uint32_t p0 = TransposeMatrix(PackHalves(s[0], s[1]));
  const uint32_t p1 = TransposeMatrix(PackHalves(s[2], s[3]));
  AddValues<kHeadDim>(stage + Layout<kHeadDim>::kTileBytes, lane, p0, p1, state);
}

// Puts the newest key and value into their tile once its copies are complete. One warp.
template <int kHeadDim>
__device__ void PutNewest(const Heads<kHeadDim>& heads, int row, int lane, uint8_t* stage) {
  constexpr int kRowWords = kHeadDim / 8;
  auto* key = reinterpret_cast<uint4*>(stage + row * Layout<kHeadDim>::kRowBytes);
  auto* value = reinterpret_cast<uint4*>(stage + row * Layout<kHeadDim>::kRowBytes + Layout<kHeadDim>::kTileBytes);
  if (lane < kRowWords) {
    key[lane] = reinterpret_cast<const uint4*>(heads.key)[lane];
    value[lane] = reinterpret_cast<const uint4*>(heads.value)[lane];
  }
  __syncwarp();
}

// A warp's way through its tiles: tile_begin + warp, and every kWarps-th from there. `make_heads` is called once by
// every warp, as soon as the first tiles are on their way; it fills `heads` and ends with a block barrier. Without
// a rope table the newest tile is copied only when the previous grid is complete.
template <int kHeadDim, bool kManyRows, class MakeHeads>
__device__ __forceinline__ void WalkTiles(const DecodeArgs& args, const Split& split, const uint32_t* table,
                                          int kv_head, int valid_heads, int warp, int lane, uint8_t* ring,
                                          const Heads<kHeadDim>& heads, State<kHeadDim>& state,
                                          MakeHeads&& make_heads) {
  using L = Layout<kHeadDim>;
  constexpr int kStages = Ring<kHeadDim, kManyRows>::kStages;
  constexpr int kAhead = kStages - 1;  // steps between a tile's copy and its turn
  const int newest_tile = (split.end - 1) / kTileTokens;
  const int begin = split.tile_begin + warp;
  uint32_t blocks = 0;  // of step 32 k + lane
#pragma unroll 1
  for (int step = 0;; ++step) {
    const int ahead = begin + step * kWarps;
    if (step % 32 == 0) {
      const int mine = ahead + lane * kWarps;
      blocks = mine < split.tile_end ? table[mine * kTileTokens >> args.block_shift] : 0U;
    }
    const uint32_t block = __shfl_sync(~0U, blocks, step % 32);
    if (ahead < split.tile_end) {
      if (ahead == newest_tile && split.cached_end == split.end) {
        WaitForPreviousGrid();
      }
      CopyTile<kHeadDim>(args, split, block, kv_head, ahead, lane, ring + step % kStages * L::kStageBytes);
    }
    CommitCopies();
    if (step < kAhead) {
      continue;
    }
    if (step == kAhead) {
      make_heads();
      InitState<kHeadDim>(heads, lane / 4 < valid_heads, lane, state);
    }
    const int tile = ahead - kAhead * kWarps;
    if (tile >= split.tile_end) {
      break;
    }
    WaitForCopies<kAhead>();
    __syncwarp();  // every lane's copies
    uint8_t* stage = ring + (step - kAhead) % kStages * L::kStageBytes;
    if (tile == newest_tile && split.cached_end < split.end) {
      PutNewest<kHeadDim>(heads, split.cached_end % kTileTokens, lane, stage);
    }
    AddTile<kHeadDim>(split, tile, stage, lane, state);
    __syncwarp();  // all have read it
  }
  WaitForCopies<0>();
}

}  // namespace flexquant::cuda::decode

#endif  // FLEXQUANT_KERNELS_CUDA_ATTENTION_DECODE_TILES_CUH_
