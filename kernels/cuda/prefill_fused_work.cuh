#ifndef FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_WORK_CUH_
#define FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_WORK_CUH_

// What a thread block of the fused prefill product works on, and how that gets into shared memory.

#include "kernels/cuda/activation_blocks.h"
#include "kernels/cuda/nested_decode.cuh"
#include "kernels/cuda/ops_common.cuh"
#include "kernels/cuda/prefill_fused_args.h"
#include "kernels/cuda/wgmma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

namespace flexquant::cuda::fused {

// What a thread block does.
struct FusedWork {
  int first_tile;
  int tiles;  // blocks without any still fetch activations for others
  int first_record;
  int end_record;
  int64_t first_token;
  int tokens;
  int split;
  int share_rank;
  uint16_t sharers;  // ranks of the blocks with the same activations, as a mask

  template <int kTokens>
  static __device__ FusedWork Find(const FusedArgs& args) {
    FusedWork work;
    const auto rank = static_cast<int>(blockIdx.x);
    work.split = rank % args.splits;
    work.share_rank = rank / args.splits;
    work.first_tile = (static_cast<int>(blockIdx.z) * args.share + work.share_rank) * FusedBlock<kTokens>::kMultipliers;
    work.tiles = max(0, min(FusedBlock<kTokens>::kMultipliers, args.tiles - work.first_tile));
    const int records = (args.matrix.blocks + kRecordBlocks - 1) / kRecordBlocks;
    work.first_record = records * work.split / args.splits;
    work.end_record = records * (work.split + 1) / args.splits;
    work.first_token = static_cast<int64_t>(blockIdx.y) * kTokens;
    work.tokens = min(kTokens, static_cast<int>(args.num_tokens - work.first_token));
    work.sharers = 0;
    for (int i = 0; i < args.share; ++i) {
      work.sharers = static_cast<uint16_t>(work.sharers | 1U << (work.split + args.splits * i));
    }
    return work;
  }
};

// Barriers and rings of a block.
template <int kBits, int kTokens>
struct Rings {
  using S = FusedShape<kBits, kTokens>;
  uint32_t activations;  // kActivationStages of [kTokens][64] halves
  uint32_t weights;      // kWeightStages of a record a tile
  uint32_t barriers;     // full and empty of each activation stage, then of each weight stage

  __device__ explicit Rings(uint32_t shared)
      : activations(shared),
        weights(shared + S::kActivationBytes),
        barriers(shared + S::kActivationBytes + S::kWeightBytes) {}
  __device__ uint32_t ActivationsFull(int stage) const { return barriers + 16 * stage; }
  __device__ uint32_t ActivationsEmpty(int stage) const { return ActivationsFull(stage) + 8; }
  __device__ uint32_t WeightsFull(int stage) const { return barriers + 16 * (kActivationStages + stage); }
  __device__ uint32_t WeightsEmpty(int stage) const { return WeightsFull(stage) + 8; }

  __device__ void Initialise(int share) const {
    for (int i = 0; i < kActivationStages; ++i) {
      BarrierInit(ActivationsFull(i), 1);
      BarrierInit(ActivationsEmpty(i), S::kMultipliers * share);
    }
    for (int i = 0; i < S::kWeightStages; ++i) {
      BarrierInit(WeightsFull(i), 1);
      BarrierInit(WeightsEmpty(i), S::kMultipliers * kArrivalsOfAWarp);
    }
    BarrierInitFence();
  }
};

// A place in a ring and the parity of its barriers' phase.
template <int kStages>
struct Turn {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void Next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// One thread of a fetching warp: the records of the block's tiles.
template <int kBits, int kTokens>
__device__ __forceinline__ void FetchRecords(const FusedArgs& args, const FusedWork& work,
                                             const Rings<kBits, kTokens>& rings) {
  using S = FusedShape<kBits, kTokens>;
  const int64_t tile_bytes = args.matrix.tile_bytes;
  Turn<S::kWeightStages> turn;
  for (int record = work.first_record; record < work.end_record; ++record, turn.Next()) {
    const RecordView view = FindRecord(args.matrix, work.first_tile, record);
    const auto bytes = static_cast<uint32_t>(64 * view.groups + view.blocks * kBits * kBlockWordBytes);
    const uint32_t full = rings.WeightsFull(turn.stage);
    BarrierWait(rings.WeightsEmpty(turn.stage), turn.parity ^ 1);
    BarrierArriveExpect(full, bytes * work.tiles);
    const uint32_t to = rings.weights + turn.stage * S::kWeightStageBytes;
    // Not `work.tiles == kMultipliers`, which ptxas 13.0 takes from a predicate of the minimum that is not that.
    if (args.tiles - work.first_tile >= S::kMultipliers) {
#pragma unroll
      for (int tile = 0; tile < S::kMultipliers; ++tile) {
        BulkCopy(to + tile * S::kRecordBytes, view.scales + tile * tile_bytes, bytes, full);
      }
    } else {
      for (int tile = 0; tile < work.tiles; ++tile) {
        BulkCopy(to + tile * S::kRecordBytes, view.scales + tile * tile_bytes, bytes, full);
      }
    }
  }
}

// One thread of another fetching warp: this block's share of the activations, for all that share them.
template <int kBits, int kTokens>
__device__ __forceinline__ void FetchActivations(const FusedArgs& args, const FusedWork& work,
                                                 const Rings<kBits, kTokens>& rings) {
  using S = FusedShape<kBits, kTokens>;
  constexpr int kRowBytes = kActivationBlockCols * 2;
  const int rows = (work.tokens + 7) / 8 * 8;
  const int first = kTokens / args.share * work.share_rank;
  const int bytes = min(rows - first, kTokens / args.share) * kRowBytes;
  const int64_t block_halves = args.block_rows * kActivationBlockCols;
  const int first_block = work.first_record * kRecordBlocks;
  const uint16_t* from = args.x + first_block * block_halves + (work.first_token + first) * kActivationBlockCols;
  const int blocks = min(work.end_record * kRecordBlocks, args.matrix.blocks) - first_block;
  Turn<kActivationStages> turn;
  for (int block = 0; block < blocks; ++block, from += block_halves, turn.Next()) {
    const uint32_t full = rings.ActivationsFull(turn.stage);
    const uint32_t to = rings.activations + turn.stage * S::kActivationStageBytes + first * kRowBytes;
    BarrierWait(rings.ActivationsEmpty(turn.stage), turn.parity ^ 1);
    BarrierArriveExpect(full, rows * kRowBytes);
    if (bytes <= 0) {
      continue;
    }
    if (args.share == 1) {
      BulkCopy(to, from, bytes, full);
    } else {
      BulkCopyToBlocks(to, from, bytes, full, work.sharers);
    }
  }
}

}  // namespace flexquant::cuda::fused

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

#endif  // FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_WORK_CUH_
