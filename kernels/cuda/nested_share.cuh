#ifndef FLEXQUANT_KERNELS_CUDA_NESTED_SHARE_CUH_
#define FLEXQUANT_KERNELS_CUDA_NESTED_SHARE_CUH_

// Quantisation by a cluster: each CTA its own blocks of a chunk's rows, a row and eight blocks a warp at a time. With a
// norm, all CTAs get the sums of squares of all. Rows are 16-byte aligned and read as vectors.

#include "kernels/cuda/nested_gemv_args.h"
#include "kernels/cuda/nested_work.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/quantize.cuh"

namespace flexquant::cuda {

inline constexpr int kShareBlocks = 8;

// This lane's quarter of a row's block; zero past the row's end.
__device__ __forceinline__ Quarter LoadBlockQuarter(const float* row, int block, int cols) {
  const int k = block * 64 + static_cast<int>(threadIdx.x) % 4 * 4;
  Quarter result;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    result.v[j] =
        k + 16 * j < cols ? __ldcg(reinterpret_cast<const float4*>(row + k + 16 * j)) : make_float4(0, 0, 0, 0);
  }
  return result;
}

// The rows and blocks of a CTA, in tasks of a warp.
struct ShareTasks {
  const ActivationInput& in;
  int first_row;
  int first_block;
  int groups;  // of kShareBlocks, of a row
  int count;

  __device__ __forceinline__ ShareTasks(const GemvArgs& args, const WarpWork& work)
      : in(args.input),
        first_row(work.first_row),
        first_block(work.block_begin),
        groups((work.block_end - work.block_begin + kShareBlocks - 1) / kShareBlocks),
        count(work.tokens * groups) {}

  __device__ __forceinline__ int Row(int task) const { return task / groups; }
  __device__ __forceinline__ int Group(int task) const { return first_block / kShareBlocks + task % groups; }
  // Of this lane.
  __device__ __forceinline__ int Block(int task) const {
    return first_block + task % groups * kShareBlocks + static_cast<int>(threadIdx.x) % 32 / 4;
  }
  __device__ __forceinline__ Quarter Load(int task) const {
    return LoadBlockQuarter(in.x + (first_row + Row(task)) * in.ldx, Block(task), in.cols);
  }
  __device__ __forceinline__ Quarter LoadWeight(int task) const {
    return LoadBlockQuarter(in.norm_weight, Block(task), in.cols);
  }
};

// The sums have the order of QuantizeRow if the row is one pass of it.
__device__ __forceinline__ void SendSquares(const GemvArgs& args, const ShareTasks& tasks, int warp,
                                            GemvScratch& scratch) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t barrier = SharedAddress(&scratch.squares_ready);
#pragma unroll 1
  for (int task = warp; task < tasks.count; task += kGemvWarps) {
    const float sum = WarpSum(AddSquares(tasks.Load(task), 0.0F));
    if (lane < 1 << args.cluster_shift) {
      const uint32_t to = SharedAddress(&scratch.squares[tasks.Row(task)][tasks.Group(task)]);
      ClusterStore(ClusterAddress(to, lane), sum, ClusterAddress(barrier, lane));
    }
  }
}

// Waits for the previous grid. `out`: so that it takes block numbers of the matrix.
__device__ __forceinline__ void QuantizeShare(const GemvArgs& args, const WarpWork& work, const ActivationOutput& out,
                                              GemvScratch& scratch) {
  const ShareTasks tasks(args, work);
  const bool norm = args.input.norm_weight != nullptr;
  const bool any = work.warp < tasks.count;
  Quarter weight{};
  Quarter next{};
  if (norm && any) {
    weight = tasks.LoadWeight(work.warp);
  }
  WaitForPreviousGrid();
  if (norm) {
    SendSquares(args, tasks, work.warp, scratch);
  }
  if (any) {
    next = tasks.Load(work.warp);
  }
  if (norm) {
    BarrierWait(SharedAddress(&scratch.squares_ready), 0);
  }
#pragma unroll 1
  for (int task = work.warp; task < tasks.count; task += kGemvWarps) {
    const int row = tasks.Row(task);
    const Quarter quarter = norm ? Normed(next, InverseNorm(args.input, scratch.squares[row]), weight) : next;
    const int later = task + kGemvWarps;
    if (later < tasks.count) {
      next = tasks.Load(later);
      if (norm) {
        weight = tasks.LoadWeight(later);
      }
    }
    const int column = row << work.split;
    QuantizeQuarter(out, tasks.Block(task), column, quarter, args.input.group_blocks, work.split != 0,
                    (work.fine_columns >> column & 1U) != 0);
  }
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_NESTED_SHARE_CUH_
