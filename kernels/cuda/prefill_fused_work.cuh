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
      BarrierInit(WeightsEmpty(i), S::kMultipliers);
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

// The fetching warp's one thread.
template <int kBits, int kTokens>
class Fetcher {
 public:
  using S = FusedShape<kBits, kTokens>;
  __device__ Fetcher(const FusedArgs& args, const FusedWork& work, const Rings<kBits, kTokens>& rings)
      : args_(args), work_(work), rings_(rings) {}

  __device__ void Run() {
    for (int i = 0; i < S::kWeightStages; ++i) {
      FetchRecords(work_.first_record + i);
    }
    WaitForPreviousGrid();
    for (int record = work_.first_record; record < work_.end_record; ++record) {
      const int blocks = min(kRecordBlocks, args_.matrix.blocks - record * kRecordBlocks);
      for (int i = 0; i < blocks; ++i) {
        FetchActivations(record, i);
      }
      // Into the stage of the record before, which is free by now, so that activations do not wait for records.
      if (record > work_.first_record) {
        FetchRecords(record - 1 + S::kWeightStages);
      }
    }
  }

 private:
  __device__ void FetchRecords(int record) {
    if (record >= work_.end_record) {
      return;
    }
    const RecordGeometry& m = args_.matrix;
    BarrierWait(rings_.WeightsEmpty(weights_.stage), weights_.parity ^ 1);
    const RecordView view = FindRecord(m, work_.first_tile, record);
    const uint32_t bytes = static_cast<uint32_t>(64 * view.groups + view.blocks * kBits * kBlockWordBytes);
    const uint32_t full = rings_.WeightsFull(weights_.stage);
    BarrierArriveExpect(full, bytes * work_.tiles);
    uint32_t to = rings_.weights + weights_.stage * S::kWeightStageBytes;
    for (int tile = 0; tile < work_.tiles; ++tile, to += S::kRecordBytes) {
      BulkCopy(to, view.scales + tile * m.tile_bytes, bytes, full);
    }
    weights_.Next();
  }

  __device__ void FetchActivations(int record, int stage) {
    BarrierWait(rings_.ActivationsEmpty(stage), (record - work_.first_record + 1) % 2);
    const uint32_t full = rings_.ActivationsFull(stage);
    const int block = record * kRecordBlocks + stage;
    const int rows = (work_.tokens + 7) / 8 * 8;
    BarrierArriveExpect(full, rows * kRowBytes);
    const int first = kTokens / args_.share * work_.share_rank;
    const int count = min(rows - first, kTokens / args_.share);
    if (count > 0) {
      const uint16_t* from =
          args_.x + (static_cast<int64_t>(block) * args_.block_rows + work_.first_token + first) * kActivationBlockCols;
      const uint32_t to = rings_.activations + stage * S::kActivationStageBytes + first * kRowBytes;
      if (args_.share == 1) {
        BulkCopy(to, from, count * kRowBytes, full);
      } else {
        BulkCopyToBlocks(to, from, count * kRowBytes, full, work_.sharers);
      }
    }
  }

  static constexpr int kRowBytes = kActivationBlockCols * 2;
  const FusedArgs& args_;
  const FusedWork& work_;
  const Rings<kBits, kTokens>& rings_;
  Turn<S::kWeightStages> weights_;
};

}  // namespace flexquant::cuda::fused

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

#endif  // FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_WORK_CUH_
