#ifndef FLEXQUANT_KERNELS_CUDA_NESTED_ROUNDS_CUH_
#define FLEXQUANT_KERNELS_CUDA_NESTED_ROUNDS_CUH_

// How the sums of a round's tiles get from the warps that multiply to those that add them up: through shared memory and
// barriers of the CTA or of the cluster. A warp waits only on barriers of its own CTA; what goes to another CTA is
// stored there with its bytes counted on a barrier there (a release for a whole cluster would be a fence for the whole
// device). No CTA ends while others may still send to it: it has waited for all they send.

#include "kernels/cuda/nested_finish.cuh"
#include "kernels/cuda/nested_gemv_args.h"
#include "kernels/cuda/nested_multiply.cuh"
#include "kernels/cuda/nested_work.cuh"
#include "kernels/cuda/ptx.cuh"

namespace flexquant::cuda {

// With more than eight columns, every warp of a CTA finishes a part of each tile; else one warp in turn a whole one.
template <class Shape, bool kHopper>
__host__ __device__ constexpr bool SharesTiles() {
  return kHopper && Shape::kTiles > 1;
}

__device__ __forceinline__ uint32_t ReadyBarrier(const GemvScratch& scratch, const WarpWork& work, int tile,
                                                 int round) {
  return SharedAddress(&scratch.ready[(tile << work.ready_shift) + (round & ((1 << work.ready_shift) - 1))]);
}

// What arrives in a tile's sums from a cluster.
__device__ __forceinline__ int ClusterSumBytes(const WarpWork& work) {
  return ((work.columns + 1) / 2 * 128) << work.tree_shift;
}

// Lets the slot's warps write the sums of a later round where those of `round` were.
template <bool kShares>
__device__ __forceinline__ void FreeSums(const GemvArgs& args, const WarpWork& work, GemvScratch& scratch, int round,
                                         int lane) {
  if (round + args.depth >= work.finish_rounds) {
    return;  // so that a CTA that ends gets nothing more from the others
  }
  const int at = round & (args.depth - 1);
  const uint32_t barrier = SharedAddress(&scratch.free[work.finish_slot][at]);
  __syncwarp();
  if (args.cluster_shift == 0) {
    BarrierArrive(barrier);
    return;
  }
  if (lane == 0 && (!kShares || work.turn == 0)) {
    BarrierArriveExpect(ReadyBarrier(scratch, work, work.finish_tile, round), ClusterSumBytes(work));
  }
  __syncwarp();
  if (lane < 1 << args.cluster_shift) {
    ClusterBarrierArrive(ClusterAddress(barrier, lane));
  }
}

// Adds up the tile of a round, or this warp's part of it.
template <class Shape, bool kHopper>
__device__ __forceinline__ void FinishRound(const GemvArgs& args, const WarpWork& work, uint8_t* shared,
                                            GemvScratch& scratch, int round) {
  constexpr bool kShares = SharesTiles<Shape, kHopper>();
  const int tree = 1 << work.tree_shift;
  if (round >= work.finish_rounds || (!kShares && work.turn != (round & (tree - 1)))) {
    return;
  }
  const int at = round & (args.depth - 1);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int stride = args.scale_columns * 16;
  const float* sums = reinterpret_cast<const float*>(shared + args.partials_offset) +
                      ((work.finish_tile * args.depth + at) << work.tree_shift) * stride;
  const TileShare share{work.finish_first + static_cast<int64_t>(round) * work.tile_step, work.first_row, work.tokens,
                        kShares ? work.turn * 32 + lane : lane, kShares ? 32 * tree : 32, work.split};
  Residual<Shape> residual;
  LoadResidual(args, share, residual);
  BarrierWait(ReadyBarrier(scratch, work, work.finish_tile, round),
              static_cast<uint32_t>(round >> work.ready_shift) & 1U);
  const TileSums tile{sums, tree, stride};
  if (kHopper || args.parts_shift == 0) {
    StoreTile<Shape, false>(args, tile, share, residual);
  } else {
    ExchangeTile(args, tile, work.part, share, residual);
  }
  FreeSums<kShares>(args, work, scratch, round, lane);
}

// Hands a round's sums over.
template <class Shape, bool kHopper>
__device__ __forceinline__ void EndRound(const GemvArgs& args, const WarpWork& work, const LaneState<Shape>& lane,
                                         uint8_t* shared, GemvScratch& scratch, int round) {
  const int at = round & (args.depth - 1);
  const int branch = ((work.owner_tile * args.depth + at) << work.tree_shift) + work.branch;
  auto* sums = reinterpret_cast<float4*>(shared + args.partials_offset) + branch * args.scale_columns * 4;
  const uint32_t ready = ReadyBarrier(scratch, work, work.owner_tile, round);
  if (round >= args.depth) {
    BarrierWait(SharedAddress(&scratch.free[work.slot][at]),
                (static_cast<uint32_t>(round >> args.depth_shift) & 1U) ^ 1U);
  }
  if (kHopper && args.cluster_shift != 0) {
    const uint32_t to = ClusterAddress(SharedAddress(sums), work.owner);
    const uint32_t barrier = ClusterAddress(ready, work.owner);
    StoreSums(lane, work.columns, [=](int i, const float4& value) { ClusterStore(to + 16 * i, value, barrier); });
    return;
  }
  StoreSums(lane, work.columns, [=](int i, const float4& value) { sums[i] = value; });
  __syncwarp();
  BarrierArrive(ready);
}

// Barriers of this warp's index. `shares`: SharesTiles of the shape that will run. Blocks of a cluster meet after it:
// ClusterWait.
__device__ __forceinline__ void InitBarriers(const GemvArgs& args, const WarpWork& work, bool shares,
                                             GemvScratch& scratch) {
  const int tree = 1 << work.tree_shift;
  if (threadIdx.x % 32 == 0) {
    BarrierInit(SharedAddress(&scratch.values[work.warp]), 1);
    if (work.warp == 0 && args.cluster_shift != 0) {
      const uint32_t squares = SharedAddress(&scratch.squares_ready);
      BarrierInit(squares, 1);
      BarrierArriveExpect(squares, work.tokens * kGemvWarps * static_cast<int>(sizeof(float)));
    }
    for (int i = 0; i < 4; ++i) {
      const uint32_t ready = SharedAddress(&scratch.ready[work.warp * 4 + i]);
      const int arrivals = args.cluster_shift == 0 ? kArrivalsOfAWarp : 1;
      BarrierInit(ready, args.cluster_shift == 0 ? tree * arrivals : 1);
      BarrierInit(SharedAddress(&scratch.free[work.warp][i]), (shares ? tree : 1) * arrivals);
      if (args.cluster_shift != 0) {
        BarrierArriveExpect(ready, ClusterSumBytes(work));
      }
    }
    BarrierInitFence();
  }
  __syncwarp();
  if (args.cluster_shift != 0) {
    ClusterArrive();
  }
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_NESTED_ROUNDS_CUH_
