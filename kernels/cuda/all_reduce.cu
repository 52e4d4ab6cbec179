#include "kernels/cuda/all_reduce.h"
#include "kernels/cuda/ops_common.cuh"

namespace flexquant::cuda {
namespace {

constexpr int kThreads = 256;
// Waits between looks at the host's memory.
constexpr int kSpinsAPoll = 1024;
constexpr int kManyThreads = 512;
// Loads in flight a thread and rank, over links of one or two microseconds.
constexpr int kManyUnroll = 4;

__device__ void StoreFlag(uint32_t* flag, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

__device__ uint32_t LoadFlag(const uint32_t* flag) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}

__device__ uint64_t Nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

// Whether to wait for `peer` no longer; looked at from time to time.
__device__ bool GivesUp(const PeerGroup& group, int peer, uint64_t begin) {
  if (*group.abort != 0 || *static_cast<const volatile uint32_t*>(group.error) != 0) {
    return true;
  }
  if (Nanoseconds() - begin <= group.timeout_ns) {
    return false;
  }
  *group.error = 1 + static_cast<uint32_t>(peer);
  return true;
}

// Tells all ranks that this block has reached `epoch` and waits until theirs have.
__device__ void MeetPeers(const PeerGroup& group, uint32_t epoch) {
  const int peer = static_cast<int>(threadIdx.x);
  if (peer < group.ranks && peer != group.rank) {
    const auto flag = [&](int of, int from) { return group.flags[of] + from * group.many_blocks + blockIdx.x; };
    __threadfence_system();
    StoreFlag(flag(peer, group.rank), epoch);
    const uint64_t begin = Nanoseconds();
    for (int spins = 1; static_cast<int32_t>(LoadFlag(flag(group.rank, peer)) - epoch) < 0; ++spins) {
      if (spins % kSpinsAPoll == 0 && GivesUp(group, peer, begin)) {
        break;
      }
    }
  }
  __syncthreads();
}

// Two numbers, each with the epoch behind it in one 8-byte word, which is written and read as one: who sees the epoch
// has the number, without a fence or a flag, for twice the bytes.
__device__ void StoreWords(uint4* to, float2 pair, uint32_t epoch) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %2};" ::"l"(to), "r"(__float_as_uint(pair.x)), "r"(epoch),
               "r"(__float_as_uint(pair.y))
               : "memory");
}

__device__ float2 LoadWords(const PeerGroup& group, int peer, const uint4* from, uint32_t epoch) {
  const uint64_t begin = Nanoseconds();
  uint4 words;
  for (int spins = 1;; ++spins) {
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                 : "l"(from)
                 : "memory");
    if ((words.y == epoch && words.w == epoch) || (spins % kSpinsAPoll == 0 && GivesUp(group, peer, begin))) {
      return {__uint_as_float(words.x), __uint_as_float(words.z)};
    }
  }
}

// Words that `from` writes for `to` in an operation.
__device__ uint4* Words(const PeerGroup& group, int to, int from, uint32_t epoch) {
  return group.words[to] + (static_cast<int64_t>(epoch % 2) * group.ranks + from) * (kMostPeerWords / 2);
}

__device__ void SumWords(const AllReduceParams& p, int64_t count, uint32_t epoch) {
  const int own = p.group.rank;
  float* data = p.group.data[own];
  const int64_t pairs = (count + 1) / 2;
  const int64_t begin = pairs * blockIdx.x / gridDim.x + threadIdx.x;
  const int64_t end = pairs * (blockIdx.x + 1) / gridDim.x;
  const auto load = [&](int64_t i) -> float2 { return {data[2 * i], 2 * i + 1 < count ? data[2 * i + 1] : 0.0F}; };
  for (int64_t i = begin; i < end; i += kThreads) {
    const float2 pair = load(i);
    for (int peer = 0; peer < p.group.ranks; ++peer) {
      if (peer != own) {
        StoreWords(Words(p.group, peer, own, epoch) + i, pair, epoch);
      }
    }
  }
  for (int64_t i = begin; i < end; i += kThreads) {
    const auto of = [&](int rank) {
      return rank == own ? load(i) : LoadWords(p.group, rank, Words(p.group, own, rank, epoch) + i, epoch);
    };
    float2 sum = of(0);
    for (int rank = 1; rank < p.group.ranks; ++rank) {
      const float2 more = of(rank);
      sum = {sum.x + more.x, sum.y + more.y};
    }
    data[2 * i] = sum.x;
    if (2 * i + 1 < count) {
      data[2 * i + 1] = sum.y;
    }
  }
}

// Floats that lie together.
template <class T>
struct Pack;
template <>
struct Pack<float> {
  __device__ static float Add(float a, float b) { return a + b; }
};
template <>
struct Pack<float4> {
  __device__ static float4 Add(const float4& a, const float4& b) {
    return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
  }
};

// The own share of `count` packs, summed into the buffers of all ranks.
template <class T>
__device__ void SumOwnShare(const PeerGroup& group, int64_t count) {
  const int64_t begin = count * group.rank / group.ranks + blockIdx.x * kManyThreads + threadIdx.x;
  const int64_t end = count * (group.rank + 1) / group.ranks;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kManyThreads;
  for (int64_t i = begin; i < end; i += kManyUnroll * stride) {
    T sum[kManyUnroll];
    for (int rank = 0; rank < group.ranks; ++rank) {
      const T* from = reinterpret_cast<const T*>(group.data[rank]);
      T value[kManyUnroll];
#pragma unroll
      for (int u = 0; u < kManyUnroll; ++u) {
        // Past L1, which may hold what another operation left here.
        if (i + u * stride < end) {
          value[u] = __ldcg(from + i + u * stride);
        }
      }
#pragma unroll
      for (int u = 0; u < kManyUnroll; ++u) {
        sum[u] = rank == 0 ? value[u] : Pack<T>::Add(sum[u], value[u]);
      }
    }
    for (int rank = 0; rank < group.ranks; ++rank) {
      T* to = reinterpret_cast<T*>(group.data[rank]);
#pragma unroll
      for (int u = 0; u < kManyUnroll; ++u) {
        if (i + u * stride < end) {
          __stcg(to + i + u * stride, sum[u]);
        }
      }
    }
  }
}

// What was in front on a rank has ended when one of its blocks comes. Nobody leaves before all have read and written:
// what is behind on a rank may change its buffer.
__global__ void __launch_bounds__(kManyThreads, 1) SumManyKernel(const AllReduceParams p) {
  const uint32_t epoch = p.group.epochs[blockIdx.x] + 1;
  MeetPeers(p.group, epoch);
  const int64_t count = NumRows(p.num_rows, p.max_rows) * p.cols;
  if (count % 4 == 0) {
    SumOwnShare<float4>(p.group, count / 4);
  } else {
    SumOwnShare<float>(p.group, count);
  }
  __threadfence_system();
  __syncthreads();
  MeetPeers(p.group, epoch + 1);
  if (threadIdx.x == 0) {
    p.group.epochs[blockIdx.x] = epoch + 1;
  }
}

// It never starts early itself: with three kernels on the device at a time, products of one wide row took up to a third
// longer. Dependents start when all blocks have, so none takes the place of a block that a peer waits for. With 32
// registers a thread there is room for a block beside two of a product.
__global__ void __launch_bounds__(kThreads, 8) SumFewKernel(const AllReduceParams p) {
  if (p.group.overlaps) {
    LaunchDependents();
  }
  const uint32_t epoch = p.group.epochs[blockIdx.x] + 1;
  const int64_t count = NumRows(p.num_rows, p.max_rows) * p.cols;
  // A block without words would not know that the others have come.
  if (count < 2 * gridDim.x) {
    MeetPeers(p.group, epoch);
  }
  SumWords(p, count, epoch);
  __syncthreads();  // all have read it
  if (threadIdx.x == 0) {
    p.group.epochs[blockIdx.x] = epoch;
  }
}

}  // namespace

size_t PeerWordBytes(int ranks) { return 2 * static_cast<size_t>(ranks) * kMostPeerWords * sizeof(uint64_t); }

size_t PeerFlagBytes(const PeerGroup& group) {
  return static_cast<size_t>(group.ranks) * static_cast<size_t>(group.many_blocks) * sizeof(uint32_t);
}

cudaError_t LaunchAllReduce(const AllReduceParams& params, cudaStream_t stream) {
  if (params.group.ranks > kMaxPeers || params.group.many_blocks < params.group.blocks) {
    return cudaErrorInvalidValue;
  }
  const bool few = params.max_rows * params.cols <= kMostPeerWords;
  const auto kernel = few ? &SumFewKernel : &SumManyKernel;
  const cudaError_t error = ShareMultiprocessors(reinterpret_cast<const void*>(kernel));
  if (error != cudaSuccess) {
    return error;
  }
  const int blocks = few ? params.group.blocks : params.group.many_blocks;
  return LaunchGrid(kernel, dim3(static_cast<unsigned>(blocks)), dim3(few ? kThreads : kManyThreads), 0, stream,
                    /*programmatic=*/false, 1, params);
}

}  // namespace flexquant::cuda
