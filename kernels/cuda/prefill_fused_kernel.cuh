#ifndef FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_KERNEL_CUH_
#define FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_KERNEL_CUH_

// A thread block multiplies 8 or 16 tiles of 16 rows by up to kTokens tokens over a range of records. One warp fetches
// records, another blocks of activations into rings of shared memory; warpgroups of four warps, a tile a warp, turn
// codes into fp16 operands and multiply. While the tensor cores work at one block, a warpgroup dequantises its next.
//
// A cluster is splits * share blocks: `splits` of them share one product along the columns and add their sums up, in
// the order of the columns, at the end; `share` of them have other rows and the same tokens, and each fetches a part of
// the activations for all.

#include "kernels/cuda/ops_common.cuh"
#include "kernels/cuda/prefill_fused_epilogue.cuh"
#include "kernels/cuda/prefill_fused_multiply.cuh"
#include "kernels/cuda/prefill_fused_work.cuh"

namespace flexquant::cuda::fused {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <int kTokens>
__device__ __forceinline__ void MultipliersSync() {
  asm volatile("bar.sync 1, %0;" ::"n"(32 * FusedBlock<kTokens>::kMultipliers) : "memory");
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

// Empty on devices that FusedGemmSupported does not name.
template <int kBits, int kTokens>
__global__ void __launch_bounds__(FusedBlock<kTokens>::kThreads, 1)
    FusedKernel(const __grid_constant__ FusedArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using S = FusedShape<kBits, kTokens>;
  extern __shared__ __align__(1024) uint8_t shared[];
  LaunchDependents();
  const FusedWork work = FusedWork::Find<kTokens>(args);
  const Rings<kBits, kTokens> rings(SharedAddress(shared));
  if (threadIdx.x == 0) {
    rings.Initialise(args.share);
  }
  ClusterMeet();
  if (threadIdx.x >= 32 * S::kMultipliers) {
    ReleaseRegisters<S::kFetchRegisters>();
    const auto warp = static_cast<int>(__shfl_sync(~0U, threadIdx.x / 32, 0)) - S::kMultipliers;
    if (warp == 0 && ElectLane()) {
      FetchRecords(args, work, rings);
    } else if (warp == 1 && ElectLane()) {
      WaitForPreviousGrid();
      FetchActivations(args, work, rings);
    }
    __syncwarp();
    if (args.splits > 1) {
      ClusterSync();
    }
  } else {
    ClaimRegisters<S::kMultiplyRegisters>();
    float sums[kTokens / 2];
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) {
      sums[i] = 0;
    }
    Multiplier<kBits, kTokens>(args, work, rings).Run(shared, sums);
    MultipliersSync<kTokens>();  // sums lie where all warpgroups read
    StoreSums<kTokens>(sums, work.tokens, reinterpret_cast<float*>(shared));
    if (args.splits > 1) {
      ClusterSync();
    } else {
      MultipliersSync<kTokens>();
    }
    WaitForPreviousGrid();
    FinishSums<kTokens>(args, work, SharedAddress(shared));
  }
  ClusterMeet();  // no block leaves while others read its memory or arrive at its barriers
#endif
}

template <int kTokens>
cudaError_t LaunchInstance(const FusedArgs& args, int bits, cudaStream_t stream, bool programmatic) {
  using Block = FusedBlock<kTokens>;
  const auto launch = [&]<int kBits>() {
    constexpr int kBytes = FusedShape<kBits, kTokens>::kTotalBytes;
    const cudaError_t status =
        cudaFuncSetAttribute(FusedKernel<kBits, kTokens>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (status != cudaSuccess) {
      return status;
    }
    const auto blocks = [](int64_t count, int64_t each) { return static_cast<unsigned>(CeilDiv(count, each)); };
    const int cluster = args.splits * args.share;
    const dim3 grid(static_cast<unsigned>(cluster), blocks(args.num_tokens, kTokens),
                    blocks(args.tiles, Block::kMultipliers * args.share));
    return LaunchGrid(FusedKernel<kBits, kTokens>, grid, dim3(Block::kThreads), kBytes, stream, programmatic, cluster,
                      args);
  };
  switch (bits) {
    case 3:
      return launch.template operator()<3>();
    case 4:
      return launch.template operator()<4>();
    case 5:
      return launch.template operator()<5>();
    case 6:
      return launch.template operator()<6>();
    case 8:
      return launch.template operator()<8>();
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace flexquant::cuda::fused

#endif  // FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_KERNEL_CUH_
