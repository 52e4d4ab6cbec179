#ifndef FLEXQUANT_KERNELS_CUDA_SAMPLING_CLUSTER_CUH_
#define FLEXQUANT_KERNELS_CUDA_SAMPLING_CLUSTER_CUH_

// The blocks that share a row's logits, and what they tell each other. Below compute capability 9.0 a row has one
// block.

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

namespace flexquant::cuda::sampling {

inline constexpr int kThreads = 512;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kMaxBlocks = 8;
inline constexpr int kBins = 512;  // one a thread
static_assert(kBins == kThreads && kWarps >= kMaxBlocks);

using Mass = unsigned long long;

// Shared memory of a block beside its logits.
struct Shared {
  uint32_t low_bins[2][kBins];  // sums of the halves of masses
  uint32_t high_bins[2][kBins];
  uint4 exchange[2][2];
  uint4 scratch[kWarps][2];  // of reductions, 32 bytes a warp
  double warp_sums[kWarps];
  Mass warp_masses[kWarps];
  Mass total;
  uint32_t found[4];
  uint32_t top_count;
  uint32_t top_ids[32];
  float top_logits[32];
};

// A block's part of the row: ids begin .. begin + count - 1.
struct Slice {
  float* x;
  int begin;
  int count;
};

struct Cluster {
  Shared* shared;
  int rank;
  int size;
  int phase = 0;  // exchanges and histograms so far; they alternate between two buffers
};

// Blocks of a row on the current device.
inline int ClusterSize() {
  int device = 0;
  int major = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) {
    return 1;
  }
  return major >= 9 ? kMaxBlocks : 1;
}

__device__ inline void ClusterSync() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.aligned;\n barrier.cluster.wait.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}

// The same object of block `rank`.
template <class T>
__device__ const T* Remote(const T* mine, [[maybe_unused]] int rank) {
#if __CUDA_ARCH__ >= 900
  return static_cast<const T*>(__cluster_map_shared_rank(mine, static_cast<unsigned>(rank)));
#else
  return mine;
#endif
}

template <class T>
__device__ T ShuffleXor(const T& x, int mask) {
  static_assert(sizeof(T) % 4 == 0 && sizeof(T) <= 32);
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &x, sizeof(T));
#pragma unroll
  for (auto& word : words) {
    word = __shfl_xor_sync(~0U, word, mask);
  }
  T y;
  memcpy(&y, words, sizeof(T));
  return y;
}

// Merges the values of all threads of all blocks in one fixed order; every thread gets the result. `merge` is
// commutative.
template <class T, class Merge>
__device__ T ReduceCluster(Cluster& c, T x, Merge merge) {
  for (int mask = 1; mask < 32; mask *= 2) {
    x = merge(x, ShuffleXor(x, mask));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    memcpy(&c.shared->scratch[threadIdx.x / 32], &x, sizeof(T));
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    memcpy(&x, &c.shared->scratch[threadIdx.x % kWarps], sizeof(T));
    for (int mask = 1; mask < kWarps; mask *= 2) {
      x = merge(x, ShuffleXor(x, mask));
    }
    if (threadIdx.x == 0) {
      memcpy(&c.shared->exchange[c.phase % 2], &x, sizeof(T));
    }
  }
  ClusterSync();
  // Lane i of the first warp reads block i; the rest of the block hears it from there.
  if (threadIdx.x < 32) {
    const int rank = static_cast<int>(threadIdx.x) % c.size;
    memcpy(&x, Remote(&c.shared->exchange[c.phase % 2], rank), sizeof(T));
    for (int mask = 1; mask < c.size; mask *= 2) {
      x = merge(x, ShuffleXor(x, mask));
    }
    if (threadIdx.x == 0) {
      memcpy(&c.shared->scratch[0], &x, sizeof(T));
    }
  }
  __syncthreads();
  memcpy(&x, &c.shared->scratch[0], sizeof(T));
  ++c.phase;
  return x;
}

// Thread 0's value of every block, for every thread; values of 8 bytes at most.
template <class T>
__device__ void GatherCluster(Cluster& c, const T& mine, T (&all)[kMaxBlocks]) {
  if (threadIdx.x == 0) {
    memcpy(&c.shared->exchange[c.phase % 2], &mine, sizeof(T));
  }
  ClusterSync();
  if (static_cast<int>(threadIdx.x) < c.size) {
    T value;
    memcpy(&value, Remote(&c.shared->exchange[c.phase % 2], static_cast<int>(threadIdx.x)), sizeof(T));
    memcpy(&c.shared->scratch[threadIdx.x], &value, sizeof(T));
  }
  __syncthreads();
#pragma unroll
  for (int rank = 0; rank < kMaxBlocks; ++rank) {
    if (rank < c.size) {
      memcpy(&all[rank], &c.shared->scratch[rank], sizeof(T));
    }
  }
  __syncthreads();
  ++c.phase;
}

// Inclusive sum over the block's threads.
__device__ inline Mass BlockScan(Cluster& c, Mass x) {
  const unsigned lane = threadIdx.x % 32;
  for (unsigned offset = 1; offset < 32; offset *= 2) {
    const Mass before = __shfl_up_sync(~0U, x, offset);
    x += lane >= offset ? before : 0;
  }
  __syncthreads();
  if (lane == 31) {
    c.shared->warp_masses[threadIdx.x / 32] = x;
  }
  __syncthreads();
  Mass warp_sum = lane < kWarps ? c.shared->warp_masses[lane] : 0;
  for (unsigned offset = 1; offset < kWarps; offset *= 2) {
    const Mass before = __shfl_up_sync(~0U, warp_sum, offset);
    warp_sum += lane >= offset ? before : 0;
  }
  const unsigned warp = threadIdx.x / 32;
  const Mass before = __shfl_sync(~0U, warp_sum, warp == 0 ? 0 : warp - 1);
  return warp == 0 ? x : x + before;
}

}  // namespace flexquant::cuda::sampling

#endif  // FLEXQUANT_KERNELS_CUDA_SAMPLING_CLUSTER_CUH_
