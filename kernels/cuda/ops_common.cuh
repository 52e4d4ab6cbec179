#ifndef FLEXQUANT_KERNELS_CUDA_OPS_COMMON_CUH_
#define FLEXQUANT_KERNELS_CUDA_OPS_COMMON_CUH_

// What the kernels beside the decode GEMV share: launching with or without programmatic dependent launch, tensor-core
// and copy instructions, reductions.

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/ptx.cuh"

namespace flexquant::cuda {

// Kernels of one chain share multiprocessors only if all ask for the same split of L1 and shared memory: an SM changes
// it when it is empty.
inline cudaError_t ShareMultiprocessors(const void* kernel) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
}

// Launches `kernel`. `programmatic`: it may start before the kernel in front of it ends (sm_90 and later only); every
// kernel here waits for that one before it reads or writes anything, so completion stays transitive.
template <class... Parameters, class... Arguments>
cudaError_t LaunchGrid(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                       bool programmatic, int cluster, Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (programmatic) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = static_cast<unsigned>(cluster);
    attributes[count].val.clusterDim.y = 1;
    attributes[count++].val.clusterDim.z = 1;
  }
  config.attrs = attributes;
  config.numAttrs = count;
  if (programmatic) {
    const cudaError_t error = ShareMultiprocessors(reinterpret_cast<const void*>(kernel));
    if (error != cudaSuccess) {
      return error;
    }
  }
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

// Rows of a step: the device-side count, or all that the launch has room for.
__device__ inline int NumRows(const int32_t* num_rows, int max_rows) {
  return num_rows == nullptr ? max_rows : min(*num_rows, max_rows);
}

__device__ inline float WarpMax(float x) {
  for (int offset = 16; offset > 0; offset /= 2) {
    x = fmaxf(x, __shfl_xor_sync(~0U, x, offset));
  }
  return x;
}

template <class T>
__device__ inline T WarpSum(T x) {
  for (int offset = 16; offset > 0; offset /= 2) {
    x += __shfl_xor_sync(~0U, x, offset);
  }
  return x;
}

// Over the threads of a block of at most 32 warps; `scratch` has 32 elements. All threads get the result.
__device__ inline float BlockSum(float x, float* scratch) {
  x = WarpSum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    scratch[threadIdx.x / 32] = x;
  }
  __syncthreads();
  return WarpSum(threadIdx.x % 32 < (blockDim.x + 31) / 32 ? scratch[threadIdx.x % 32] : 0.0F);
}

__device__ inline float BlockMax(float x, float* scratch) {
  x = WarpMax(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    scratch[threadIdx.x / 32] = x;
  }
  __syncthreads();
  return WarpMax(threadIdx.x % 32 < (blockDim.x + 31) / 32 ? scratch[threadIdx.x % 32] : -INFINITY);
}

__device__ inline uint32_t PackHalves(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// 16 bytes to shared memory, past L1; zeros if not `valid`.
__device__ inline void CopyAsync16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// d += a b, 16 x 8 x 16, fp16 in, fp32 out.
__device__ inline void MultiplyAdd(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                   uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Transposes an 8 x 8 matrix of halves that a warp holds in the layout of a tensor-core operand.
__device__ inline uint32_t TransposeMatrix(uint32_t x) {
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

__device__ inline void LoadMatrices(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(shared))
               : "memory");
}

__device__ inline void LoadMatricesTransposed(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(shared))
               : "memory");
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_OPS_COMMON_CUH_
