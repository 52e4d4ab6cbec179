#ifndef FLEXQUANT_KERNELS_CUDA_NESTED_KERNEL_CUH_
#define FLEXQUANT_KERNELS_CUDA_NESTED_KERNEL_CUH_

// The decode kernel. On Hopper every warp has a ring of records in shared memory, filled by bulk copies before the
// previous grid is complete; elsewhere lanes read records from global memory.

#include <type_traits>

#include "kernels/cuda/nested_activations.cuh"
#include "kernels/cuda/nested_gemv_args.h"
#include "kernels/cuda/nested_multiply.cuh"
#include "kernels/cuda/nested_rounds.cuh"
#include "kernels/cuda/nested_work.cuh"
#include "kernels/cuda/ptx.cuh"

namespace flexquant::cuda {

template <class Shape>
__device__ __forceinline__ void InitLane(const GemvArgs& args, const WarpWork& work, LaneState<Shape>& lane) {
  lane.lane = static_cast<int>(threadIdx.x) % 32;
  lane.group_shift = args.group_blocks - 1;
  lane.max_bits = work.max_bits;
  lane.value_step = Shape::kPerLane == 1 ? kBlockCols : work.stride * kBlockCols;
  lane.scale_step = Shape::kPerLane == 1 ? 2 : ScaleColumnsOf<Shape>(args, work);
  int column = lane.lane / 4;
  int scale_column = 2 * (lane.lane % 4);
  if constexpr (Shape::kNarrow) {
    column %= Shape::kPerLane;
    scale_column = 0;
  } else if constexpr (Shape::kTiles == 1) {
    column = min(column, work.stride - 1);
    scale_column = min(scale_column, work.scale_columns - 2);
  }
  lane.value_offset = column * kBlockCols + 16 * (lane.lane % 4);
  lane.scale_offset = scale_column;
}

// A lane's columns' widths, of a launch whose widths differ.
template <class Shape>
__device__ __forceinline__ void LoadWidths(const GemvScratch& scratch, LaneState<Shape>& lane) {
#pragma unroll
  for (int t = 0; t < Shape::kTiles; ++t) {
    lane.width[t] = scratch.bits[lane.value_at(t) / kBlockCols];
    lane.middle[t][0] = Middle(scratch.bits[lane.scale_at(t)]);
    lane.middle[t][1] = Middle(scratch.bits[lane.scale_at(t) + 1]);
  }
}

// A warp's records of one tile. `values`, `scales`: of its first block.
template <class Shape, bool kHopper, int kBits>
__device__ __forceinline__ void MultiplyTile(const GemvArgs& args, const WarpWork& work, RecordStream<kHopper>& stream,
                                             LaneState<Shape>& lane, const int8_t* values, const float2* scales) {
  for (int i = work.first_record; i < work.last_record; ++i) {
    const int blocks = args.blocks - i * kRecordBlocks;
    const uint8_t* record = stream.Wait();
    if (blocks >= kRecordBlocks) {
      MultiplyRecord<Shape, kBits, true>(lane, record, kRecordBlocks, values, scales);
    } else {
      MultiplyRecord<Shape, kBits, false>(lane, record, blocks, values, scales);
    }
    stream.Release();
    values += kRecordBlocks * lane.value_stride();
    scales += kRecordBlocks * lane.scale_stride();
  }
}

template <class Shape, bool kHopper>
__device__ __forceinline__ void RunTiles(const GemvArgs& args, const WarpWork& work, RecordStream<kHopper>& stream,
                                         uint8_t* shared, GemvScratch& scratch) {
  LaneState<Shape> lane;
  InitLane(args, work, lane);
  const int first_block = work.first_record * kRecordBlocks - work.block_begin;
  const auto* values = reinterpret_cast<const int8_t*>(shared + args.values_offset) + first_block * lane.value_stride();
  const auto* scales = reinterpret_cast<const float2*>(shared + args.scales_offset) + first_block * lane.scale_stride();
  // A round is finished some rounds later, when all its sums are there, so that no warp waits for a slower one.
  const int lag = max(1, args.depth - 1);
  const int rounds = max(work.rounds, work.finish_rounds);
  for (int round = 0; round < rounds + lag; ++round) {
    if (round >= lag) {
      FinishRound<Shape, kHopper>(args, work, shared, scratch, round - lag);
    }
    if (round >= work.rounds) {
      continue;
    }
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(lane.sums) / sizeof(float)); ++i) {
      (&lane.sums[0][0][0][0])[i] = 0;
    }
    switch (work.bits) {
      case 3:
        MultiplyTile<Shape, kHopper, 3>(args, work, stream, lane, values, scales);
        break;
      case 4:
        MultiplyTile<Shape, kHopper, 4>(args, work, stream, lane, values, scales);
        break;
      case 5:
        MultiplyTile<Shape, kHopper, 5>(args, work, stream, lane, values, scales);
        break;
      case 6:
        MultiplyTile<Shape, kHopper, 6>(args, work, stream, lane, values, scales);
        break;
      case 8:
        MultiplyTile<Shape, kHopper, 8>(args, work, stream, lane, values, scales);
        break;
      default:
        LoadWidths(scratch, lane);
        MultiplyTile<Shape, kHopper, kMixed>(args, work, stream, lane, values, scales);
        break;
    }
    EndRound<Shape, kHopper>(args, work, lane, shared, scratch, round);
  }
}

// Two CTAs of a launch of at most 16 columns, or one of more, leave registers for one of the quantising kernel.
template <class Shape, bool kHopper>
__global__ void __launch_bounds__(kGemvThreads) __maxnreg__(Shape::kTiles == 1   ? 112
                                                            : Shape::kTiles == 2 ? 128
                                                                                 : 192)
    NestedGemvKernel(const __grid_constant__ GemvArgs args) {
#if __CUDA_ARCH__ < 900
  if constexpr (kHopper) {
    return;
  } else
#endif
  {
    extern __shared__ __align__(128) uint8_t shared[];
    if constexpr (kHopper) {
      LaunchDependents();
    }
    auto& scratch = *reinterpret_cast<GemvScratch*>(shared + args.scratch_offset);
    WarpWork work = PlanWarp(args);
    int bits = 0;
    PlanWidths(args, work, &bits);
    bool drops = false;
    if constexpr (Shape::kNarrow) {
      DropLowColumn(args, work);
    } else {
      drops = DropLowColumns(args, work, &bits);
    }
    RecordStream<kHopper> stream(args, work, shared + work.warp * args.ring_bytes, scratch.full[work.warp]);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (work.warp == 0) {
      scratch.bits[lane] = bits;
    }
    using Dropped = typename Shape::Dropped;
    InitBarriers(args, work, drops ? SharesTiles<Dropped, kHopper>() : SharesTiles<Shape, kHopper>(), scratch);
    stream.Start(lane, args.pace);
    if (args.cluster_shift != 0) {
      ClusterWait();
    }
    LoadActivations<Shape, kHopper>(args, work, shared, scratch);
    if constexpr (!std::is_same_v<Dropped, Shape>) {
      // In one kernel, so that launches with and without 15-bit activations find each other's instructions cached.
      if (Shape::kNarrow ? work.columns == 1 : drops) {
        RunTiles<Dropped, kHopper>(args, work, stream, shared, scratch);
        return;
      }
      if constexpr (!Shape::kNarrow) {
        // So they are already, but from the arguments they take no registers: 16 bytes of spilled ones instead of 204.
        UseAllColumns(args, work);
      }
    }
    RunTiles<Shape, kHopper>(args, work, stream, shared, scratch);
  }
}

template <class Shape, bool kHopper>
cudaError_t LaunchShape(const GemvArgs& args, const cudaLaunchConfig_t& config) {
  constexpr auto kKernel = &NestedGemvKernel<Shape, kHopper>;
  const auto* symbol = reinterpret_cast<const void*>(kKernel);
  // The most of any launch, not this one's: threads that launch on one device share the attribute.
  cudaError_t error = cudaFuncSetAttribute(symbol, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           kHopper ? kHopperShared : kPortableShared);
  if (error == cudaSuccess) {
    error =
        cudaFuncSetAttribute(symbol, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  }
  return error == cudaSuccess ? cudaLaunchKernelEx(&config, kKernel, args) : error;
}

template <bool kHopper>
cudaError_t LaunchColumns(const GemvArgs& args, const cudaLaunchConfig_t& config) {
  if (args.chunk_columns <= kNarrowColumns) {
    return LaunchShape<GemvShape<true, 1, 2>, kHopper>(args, config);
  }
  if (args.chunk_columns <= kTileColumns) {
    return LaunchShape<GemvShape<false, 1, 2>, kHopper>(args, config);
  }
  if constexpr (kHopper) {
    if (args.chunk_columns > 2 * kTileColumns) {
      return LaunchShape<GemvShape<false, 4, 2>, kHopper>(args, config);
    }
  }
  return LaunchShape<GemvShape<false, 2, 2>, kHopper>(args, config);
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_NESTED_KERNEL_CUH_
