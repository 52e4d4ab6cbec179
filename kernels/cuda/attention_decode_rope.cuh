#ifndef FLEXQUANT_KERNELS_CUDA_ATTENTION_DECODE_ROPE_CUH_
#define FLEXQUANT_KERNELS_CUDA_ATTENTION_DECODE_ROPE_CUH_

// How a block of the decode attention makes its queries, and the newest key and value, from the qkv product.

#include "kernels/cuda/attention_decode_tiles.cuh"
#include "kernels/cuda/rope.cuh"

namespace flexquant::cuda::decode {

// The heads of a block.
struct BlockHeads {
  int row;
  int position;
  int kv_head;
  int head0;
  int heads;
  bool makes_newest;   // its part has the newest token, whose key and value are not in the cache
  bool stores_newest;  // and of the blocks that have it, it is the one that writes the cache
};

// Scaled and split into two halves.
template <int kHeadDim, int kPairs>
__device__ __forceinline__ void StoreQuery(const Head<kPairs>& x, float scale, int at, int lane,
                                           Heads<kHeadDim>& heads) {
  constexpr int kHalf = kHeadDim / 2;
#pragma unroll
  for (int i = 0; i < 2 * kPairs; ++i) {
    const int j = lane + 32 * (i / 2);
    const float value = (i % 2 == 0 ? x.low[i / 2] : x.high[i / 2]) * scale;
    const __half high = __float2half_rn(value);
    if (j < kHalf) {
      const int to = at * Heads<kHeadDim>::kStride + j + i % 2 * kHalf;
      heads.q_high[to] = high;
      heads.q_low[to] = __float2half_rn(value - __half2float(high));
    }
  }
}

// Heads head0 .. head0 + heads - 1 of q, then, if makes_newest, the key and the value: one a warp at a time. Waits for
// the previous grid once all that does not depend on it is loaded; ends with a block barrier.
template <int kHeadDim>
__device__ __forceinline__ void MakeHeads(const DecodeArgs& args, const BlockHeads& b, int warp, int lane,
                                          Heads<kHeadDim>& out) {
  constexpr int kHalf = kHeadDim / 2;
  constexpr int kPairs = (kHalf + 31) / 32;
  const AttentionDecodeParams& p = args.p;
  const bool rotates = p.rope.table != nullptr;
  const int count = b.heads + (b.makes_newest ? 2 : 0);
  Angles<kPairs> angles;
  if (rotates) {
    angles = LoadAngles<kPairs>(p.rope.table + static_cast<int64_t>(b.position) * kHalf, kHalf, lane);
  }
  int64_t to = 0;
  if (b.stores_newest) {
    const int64_t block = p.block_tables[b.row * p.block_table_stride + (b.position >> args.block_shift)];
    const int in_block = b.position & ((1 << args.block_shift) - 1);
    to = (((block * p.num_kv_heads + b.kv_head) << args.block_shift) + in_block) * kHeadDim;
  }
  WaitForPreviousGrid();
  const float* row = p.q + b.row * p.q_stride;
#pragma unroll 1
  for (int at = warp; at < count; at += kWarps) {
    const int kv = at - b.heads;  // 0: key, 1: value
    const int head = kv < 0 ? b.head0 + at : p.num_heads + kv * p.num_kv_heads + b.kv_head;
    auto x = LoadHead<kPairs>(row + head * kHeadDim, nullptr, kHalf, lane);
    if (kv < 1 && rotates) {
      const float* norm = kv < 0 ? p.rope.q_norm : p.rope.k_norm;
      if (norm != nullptr) {
        Normalise(norm, p.rope.norm_eps, kHalf, lane, x);
      }
      Rotate(angles, x);
    }
    if (kv < 0) {
      StoreQuery<kHeadDim>(x, p.scale * kLog2E, at, lane, out);
      continue;
    }
    StoreHead(kv == 0 ? out.key : out.value, kHalf, lane, x);
    if (b.stores_newest) {
      StoreHead(reinterpret_cast<__half*>(kv == 0 ? p.k_cache : p.v_cache) + to, kHalf, lane, x);
    }
  }
  __syncthreads();
}

}  // namespace flexquant::cuda::decode

#endif  // FLEXQUANT_KERNELS_CUDA_ATTENTION_DECODE_ROPE_CUH_
