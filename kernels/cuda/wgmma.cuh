#ifndef FLEXQUANT_KERNELS_CUDA_WGMMA_CUH_
#define FLEXQUANT_KERNELS_CUDA_WGMMA_CUH_

// Hopper's warpgroup products and what a cluster of thread blocks needs. Only for code of sm_90a; elsewhere the
// functions do not exist.

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

namespace flexquant::cuda {

__device__ __forceinline__ void WgmmaFence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void WgmmaCommit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most kUnderWay of the committed groups are not complete.
template <int kUnderWay>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kUnderWay) : "memory");
}

// Keeps the compiler from moving or reusing registers of a product across a fence or wait.
template <int kCount>
__device__ __forceinline__ void Pin(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    asm volatile("" : "+f"(registers[i])::"memory");
  }
}
template <int kCount>
__device__ __forceinline__ void Pin(uint32_t (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    asm volatile("" : "+r"(registers[i])::"memory");
  }
}

// Of a [n][64] matrix of halves in shared memory with 128-byte rows and the 128-byte swizzle, from its column 16 k on.
__device__ __forceinline__ uint64_t SwizzledOperand(uint32_t address, int k) {
  constexpr uint64_t kRowGroup = uint64_t{1024 / 16} << 32;  // eight rows
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  return kSwizzle128 | kRowGroup | uint64_t{1} << 16 | ((address & 0x3FFFFU) / 16 + 2U * static_cast<uint32_t>(k));
}

#define FQ_OUT4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define FQ_OUT16(i) FQ_OUT4(i), FQ_OUT4((i) + 4), FQ_OUT4((i) + 8), FQ_OUT4((i) + 12)

// d += a b: 64 rows a warpgroup, 16 columns, fp16; a from registers as mma.m16n8k16 has it, b from shared memory; the
// number of registers of d says how many columns b has, two for each.
__device__ __forceinline__ void Multiply(float (&d)[32], const uint32_t* a, uint64_t b) {
  asm volatile(
      "{\n .reg .pred p;\n setp.ne.b32 p, 1, 0;\n wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}"
      : FQ_OUT16(0), FQ_OUT16(16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void Multiply(float (&d)[64], const uint32_t* a, uint64_t b) {
  asm volatile(
      "{\n .reg .pred p;\n setp.ne.b32 p, 1, 0;\n wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63"
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}"
      : FQ_OUT16(0), FQ_OUT16(16), FQ_OUT16(32), FQ_OUT16(48)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void Multiply(float (&d)[128], const uint32_t* a, uint64_t b) {
  asm volatile(
      "{\n .reg .pred p;\n setp.ne.b32 p, 1, 0;\n wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "
      "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, "
      "%101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, "
      "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
      "}, {%128, %129, %130, %131}, %132, p, 1, 1, 0;\n}"
      : FQ_OUT16(0), FQ_OUT16(16), FQ_OUT16(32), FQ_OUT16(48), FQ_OUT16(64), FQ_OUT16(80), FQ_OUT16(96), FQ_OUT16(112)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef FQ_OUT16
#undef FQ_OUT4

// A warpgroup's registers a thread from here on.
template <int kCount>
__device__ __forceinline__ void ClaimRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void ReleaseRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

// All threads of all blocks of the cluster; what they wrote to shared memory is visible after it.
__device__ __forceinline__ void ClusterSync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// As that, but orders no memory; barriers that BarrierInitFence came after are visible.
__device__ __forceinline__ void ClusterMeet() {
  ClusterArrive();
  ClusterWait();
}
__device__ __forceinline__ float4 LoadOfCluster(uint32_t address) {
  float4 x;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "r"(address)
               : "memory");
  return x;
}
// As BulkCopy, to the same place of every block in `blocks` (bit = rank), completing on each one's own barrier.
__device__ __forceinline__ void BulkCopyToBlocks(uint32_t destination, const void* source, uint32_t bytes,
                                                 uint32_t barrier, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
      "%4;" ::"r"(destination),
      "l"(source), "r"(bytes), "r"(barrier), "h"(blocks)
      : "memory");
}

}  // namespace flexquant::cuda

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

#endif  // FLEXQUANT_KERNELS_CUDA_WGMMA_CUH_
