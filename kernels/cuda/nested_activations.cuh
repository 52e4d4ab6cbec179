#ifndef FLEXQUANT_KERNELS_CUDA_NESTED_ACTIVATIONS_CUH_
#define FLEXQUANT_KERNELS_CUDA_NESTED_ACTIVATIONS_CUH_

// How activations get into the decode kernel's shared memory.

#include "kernels/cuda/nested_gemv_args.h"
#include "kernels/cuda/nested_share.cuh"
#include "kernels/cuda/nested_work.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/quantize.cuh"

namespace flexquant::cuda {

// Quantises this CTA's activations; only if they were not beforehand.
template <bool kHopper>
__device__ __forceinline__ void QuantizeHere(const GemvArgs& args, const WarpWork& work, ActivationOutput out,
                                             GemvScratch& scratch) {
  if (kHopper && args.cluster_shift != 0) {
    out.values -= work.block_begin * work.stride * kBlockCols;
    out.scales -= work.block_begin * out.scale_columns;
    QuantizeShare(args, work, out, scratch);
    return;
  }
  Quarter weight{};
  if (args.input.norm_weight != nullptr) {
    weight = LoadVectors(args.input.norm_weight, 0, args.input);
  }
  WaitForPreviousGrid();
  for (int row = 0; row < work.columns >> work.split; ++row) {
    const int column = row << work.split;
    QuantizeRow(args.input, work.first_row + row, work.split != 0, (work.fine_columns >> column & 1U) != 0, out, column,
                weight, scratch.squares[row]);
  }
}

// Waits for the previous grid and brings this launch's activations into shared memory. Ends with a block barrier.
template <class Shape, bool kHopper>
__device__ __forceinline__ void LoadActivations(const GemvArgs& args, const WarpWork& work, uint8_t* shared,
                                                GemvScratch& scratch) {
  auto* values = reinterpret_cast<int8_t*>(shared + args.values_offset);
  auto* scales = reinterpret_cast<float2*>(shared + args.scales_offset);
  const int value_bytes = work.stride * kBlockCols;
  const int scale_columns = ScaleColumnsOf<Shape>(args, work);
  const int scale_bytes = scale_columns * static_cast<int>(sizeof(float2));
  if constexpr (Shape::kTiles == 1) {
    if (args.values == nullptr) {
      QuantizeHere<kHopper>(args, work, {values, scales, work.stride, scale_columns, work.block_end}, scratch);
      __syncthreads();
      return;
    }
  }
  WaitForPreviousGrid();
  const int64_t first_block = static_cast<int64_t>(work.chunk) * args.blocks;
  const int chunk_bytes = Shape::kNarrow ? value_bytes : args.chunk_columns * kBlockCols;
  const int8_t* chunk_values = args.values + first_block * chunk_bytes;
  const float2* chunk_scales = args.scales + first_block * args.scale_columns;
  if (!kHopper) {
    const int blocks = work.block_end - work.block_begin;
    const auto* from_values = reinterpret_cast<const uint4*>(chunk_values + work.block_begin * value_bytes);
    const auto* from_scales = reinterpret_cast<const uint4*>(chunk_scales + work.block_begin * scale_columns);
    for (int i = threadIdx.x; i < blocks * value_bytes / 16; i += kGemvThreads) {
      reinterpret_cast<uint4*>(values)[i] = __ldcg(from_values + i);
    }
    for (int i = threadIdx.x; i < blocks * scale_bytes / 16; i += kGemvThreads) {
      reinterpret_cast<uint4*>(scales)[i] = __ldcg(from_scales + i);
    }
  } else if (work.slot == 0 && threadIdx.x % 32 == 0) {
    const int begin = work.first_record * kRecordBlocks;
    const int blocks = min(args.blocks, work.last_record * kRecordBlocks) - begin;
    const int at = begin - work.block_begin;
    const uint32_t barrier = SharedAddress(&scratch.values[work.slice]);
    BarrierArriveExpect(barrier, blocks * (value_bytes + scale_bytes));
    BulkCopy(SharedAddress(values + at * value_bytes), chunk_values + begin * value_bytes, blocks * value_bytes,
             barrier);
    BulkCopy(SharedAddress(scales + at * scale_columns), chunk_scales + begin * scale_columns,
             blocks * scale_bytes, barrier);
  }
  __syncthreads();
  if (kHopper) {
    BarrierWait(SharedAddress(&scratch.values[work.slice]), 0);
  }
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_NESTED_ACTIVATIONS_CUH_
