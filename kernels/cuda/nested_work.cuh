#ifndef FLEXQUANT_KERNELS_CUDA_NESTED_WORK_CUH_
#define FLEXQUANT_KERNELS_CUDA_NESTED_WORK_CUH_

// What a warp of the decode kernel does, and the stream of its records.

#include "kernels/cuda/nested_gemv_args.h"
#include "kernels/cuda/nested_multiply.cuh"
#include "kernels/cuda/nested_widths.cuh"
#include "kernels/cuda/ptx.cuh"

namespace flexquant::cuda {

// What a warp does; equal on all its lanes.
struct WarpWork {
  int warp;
  int part;
  int slot_warps;  // slices of this CTA
  int slot;
  int slice;  // of this CTA's
  int first_record;
  int last_record;  // exclusive
  int first_tile;
  int tile_step;
  int rounds;       // tiles of this warp
  int block_begin;  // of this CTA's activations
  int block_end;
  // Adding up. `tree` slices, of which this warp's is `branch`, are added by warps of the CTA `owner` of the cluster,
  // as its tile `owner_tile` of a round. This warp has `turn` among the `tree` warps that add up tile `finish_tile` of
  // its own CTA, which is that of slot `finish_slot`.
  int tree_shift;
  int branch;
  int owner;
  int owner_tile;
  int turn;
  int finish_tile;
  int finish_slot;
  int finish_first;  // tile of the matrix in round 0
  int finish_rounds;
  int ready_shift;  // barriers of a tile: at least `depth`, and one for each warp that takes turns, which may be ahead
  int chunk;
  int first_row;      // of the batch, of this chunk
  int columns;        // of this chunk
  int split;          // 1: two columns a row
  int stride;         // columns between blocks of activations
  int scale_columns;  // ScaleColumns(stride)
  int tokens;         // valid rows of this chunk
  int bits;           // kMixed, or the width of all columns
  int max_bits;
  uint32_t fine_columns;  // bit c: column c has 15-bit activations
};

// Before columns are dropped.
__device__ __forceinline__ void UseAllColumns(const GemvArgs& args, WarpWork& work) {
  work.columns = min(args.chunk_columns, args.columns - work.chunk * args.chunk_columns);
  work.split = args.split;
  work.stride = args.chunk_columns;
  work.scale_columns = args.scale_columns;
}

__device__ __forceinline__ WarpWork PlanWarp(const GemvArgs& args) {
  WarpWork work;
  // The reduction tells the compiler that the number is the same on all lanes.
  work.warp = static_cast<int>(__reduce_max_sync(0xFFFFFFFFU, threadIdx.x / 32));
  work.chunk = args.first_chunk + static_cast<int>(blockIdx.y);
  work.first_row = work.chunk * args.chunk_columns >> args.split;
  UseAllColumns(args, work);
  const int set = static_cast<int>(blockIdx.x) >> args.parts_shift;
  work.part = static_cast<int>(blockIdx.x) & (args.parts - 1);
  const int warps_shift = args.slices_shift - args.parts_shift;
  const int slots_shift = kGemvWarpsShift - warps_shift;
  work.slot_warps = 1 << warps_shift;
  work.slot = work.warp >> warps_shift;
  work.slice = work.warp & (work.slot_warps - 1);
  const int first_slice = work.part << warps_shift;
  const auto begin = [&args](int slice) { return slice * args.records >> args.slices_shift; };
  work.first_record = begin(first_slice + work.slice);
  work.last_record = begin(first_slice + work.slice + 1);
  work.first_tile = (set << slots_shift) + work.slot;
  work.tile_step = args.tile_step;
  const auto rounds = [&args](int tile) { return args.full_rounds + (tile < args.extra_tiles ? 1 : 0); };
  work.rounds = rounds(work.first_tile);
  const int rank = work.part & ((1 << args.cluster_shift) - 1);
  work.tree_shift = warps_shift + args.cluster_shift;
  work.branch = (rank << warps_shift) + work.slice;
  work.owner = work.slot & ((1 << args.cluster_shift) - 1);
  work.owner_tile = work.slot >> args.cluster_shift;
  work.turn = work.warp & ((1 << work.tree_shift) - 1);
  work.finish_tile = work.warp >> work.tree_shift;
  work.finish_slot = (work.finish_tile << args.cluster_shift) + rank;
  work.finish_first = (set << slots_shift) + work.finish_slot;
  work.finish_rounds = rounds(work.finish_first);
  work.ready_shift = max(work.tree_shift, args.depth_shift);
  work.block_begin = begin(first_slice) * kRecordBlocks;
  work.block_end = min(args.blocks, begin(first_slice + work.slot_warps) * kRecordBlocks);
  return work;
}

// `bits`: of column threadIdx.x % 32; 3 if it is not computed. Without a valid row there is nothing to do.
__device__ __forceinline__ void PlanWidths(const GemvArgs& args, WarpWork& work, int* bits) {
  const ChunkWidths chunk =
      LoadChunkWidths(args.widths, args.valid_rows, work.first_row, work.columns >> args.split, args.split);
  const int row = (static_cast<int>(threadIdx.x) % 32) >> args.split;
  work.tokens = chunk.tokens;
  *bits = chunk.bits;
  work.max_bits = static_cast<int>(__reduce_max_sync(0xFFFFFFFFU, static_cast<unsigned>(*bits)));
  const bool uniform = __all_sync(0xFFFFFFFFU, row >= work.tokens || *bits == work.max_bits) != 0;
  work.bits = uniform ? work.max_bits : kMixed;
  work.fine_columns = FineColumns(*bits, args.fine_widths);
  work.rounds = work.tokens == 0 ? 0 : work.rounds;
  work.finish_rounds = work.tokens == 0 ? 0 : work.finish_rounds;
}

// One row whose width takes no 15-bit activations needs one column, not two.
__device__ __forceinline__ void DropLowColumn(const GemvArgs& args, WarpWork& work) {
  if (work.columns == kNarrowColumns && DropsLowColumns(work.fine_columns, work.split, args.keep_low_columns)) {
    work.columns = work.stride = 1;
    work.split = 0;
  }
}

// Of several rows, none of which takes them; whether there were any. `bits` as above.
__device__ __forceinline__ bool DropLowColumns(const GemvArgs& args, WarpWork& work, int* bits) {
  const bool drops = DropsLowColumns(work.fine_columns, args.split, args.keep_low_columns);
  if (drops) {
    work.columns >>= 1;
    work.stride >>= 1;
    work.scale_columns = ScaleColumns(work.stride);
    work.split = 0;
    *bits = __shfl_sync(0xFFFFFFFFU, *bits, static_cast<int>(threadIdx.x) * 2 % 32);
  }
  return drops;
}

// Columns of a block's activation scales. Of one row, what is dropped does not change them: from the arguments they
// take no registers.
template <class Shape>
__device__ __forceinline__ int ScaleColumnsOf(const GemvArgs& args, const WarpWork& work) {
  return Shape::kNarrow ? args.scale_columns : work.scale_columns;
}

// The records of a warp in order.
template <bool kHopper>
class RecordStream {
 public:
  __device__ __forceinline__ RecordStream(const GemvArgs& args, const WarpWork& work, uint8_t* ring, uint64_t* full)
      : ring_(SharedAddress(ring)),
        full_(SharedAddress(full)),
        ring_pointer_(ring),
        first_record_(work.first_record),
        last_record_(work.last_record),
        record_(work.first_record),
        record_bytes_(args.record_bytes) {
    const int last_blocks = args.blocks - (args.records - 1) * kRecordBlocks;
    short_record_ = last_blocks < kRecordBlocks ? args.records - 1 : -1;
    bytes_ = Prefix(args, kRecordBlocks, work.max_bits);
    short_bytes_ = Prefix(args, last_blocks, work.max_bits);
    next_ = args.weights + work.first_tile * args.tile_bytes + static_cast<int64_t>(first_record_) * record_bytes_;
    next_tile_ = work.tile_step * args.tile_bytes - static_cast<int64_t>(last_record_ - first_record_) * record_bytes_;
    left_ = work.rounds * (last_record_ - first_record_);
    fetchable_ = left_;
    stages_ = args.stages[work.max_bits];
  }

  // Hopper: fills the ring, `pace` records in flight: more would hold up what the running grid reads.
  __device__ __forceinline__ void Start(int lane, int pace) {
    if constexpr (kHopper) {
      if (lane == 0) {
        for (int stage = 0; stage < stages_; ++stage) {
          BarrierInit(full_ + 8 * stage, 1);
        }
        BarrierInitFence();
      }
      __syncwarp();
      for (int stage = 0; stage < stages_; ++stage) {
        if (stage >= pace && stage - pace < fetchable_) {
          BarrierWait(full_ + 8 * (stage - pace), 0);
        }
        Fetch(stage);
      }
    }
  }

  // The next record; valid until Release.
  __device__ __forceinline__ const uint8_t* Wait() {
    if constexpr (kHopper) {
      BarrierWait(full_ + 8 * stage_, phase_);
      return ring_pointer_ + stage_ * bytes_;
    } else {
      const uint8_t* record = next_;
      Advance();
      return record;
    }
  }
  __device__ __forceinline__ void Release() {
    if constexpr (kHopper) {
      __syncwarp();
      Fetch(stage_);
      if (++stage_ == stages_) {
        stage_ = 0;
        phase_ ^= 1;
      }
    }
  }

 private:
  static __device__ __forceinline__ int Prefix(const GemvArgs& args, int blocks, int bits) {
    return ((blocks + args.group_blocks - 1) >> (args.group_blocks - 1)) * 64 + blocks * bits * kBlockWordBytes;
  }

  __device__ __forceinline__ void Advance() {
    next_ += record_bytes_;
    if (++record_ == last_record_) {
      record_ = first_record_;
      next_ += next_tile_;
    }
  }

  __device__ __forceinline__ void Fetch(int stage) {
    if (left_ == 0) {
      return;
    }
    --left_;
    if (ElectLane()) {
      const int bytes = record_ == short_record_ ? short_bytes_ : bytes_;
      BarrierArriveExpect(full_ + 8 * stage, bytes);
      BulkCopy(ring_ + stage * bytes_, next_, bytes, full_ + 8 * stage);
    }
    Advance();
  }

  uint32_t ring_;
  uint32_t full_;
  const uint8_t* ring_pointer_;
  const uint8_t* next_;
  int64_t next_tile_;
  int first_record_;
  int last_record_;
  int record_;
  int short_record_;
  int record_bytes_;
  int bytes_;
  int short_bytes_;
  int left_;
  int fetchable_;
  int stages_;
  int stage_ = 0;
  uint32_t phase_ = 0;
};

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_NESTED_WORK_CUH_
