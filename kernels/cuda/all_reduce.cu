#include "kernels/cuda/all_reduce.h"
#include "kernels/cuda/ops_common.cuh"

namespace flexquant::cuda {
namespace {

constexpr int kThreads = 256;
// Waits between looks at the host's memory.
constexpr int kSpinsAPoll = 1024;
// Numbers that travel with their epochs; of more, the bytes count.
constexpr int64_t kMostWords = 128 << 10;

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

// Until `peer` has reached `epoch` in this block's operations.
__device__ void WaitForPeer(const PeerGroup& group, int peer, uint32_t epoch) {
  const uint32_t* flag = group.flags[group.rank] + peer * group.blocks + blockIdx.x;
  const uint64_t begin = Nanoseconds();
  for (int spins = 1; static_cast<int32_t>(LoadFlag(flag) - epoch) < 0; ++spins) {
    if (spins % kSpinsAPoll == 0 && GivesUp(group, peer, begin)) {
      return;
    }
  }
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

template <class T>
struct Adder;
template <>
struct Adder<float> {
  __device__ static float Add(float a, float b) { return a + b; }
};
template <>
struct Adder<float4> {
  __device__ static float4 Add(const float4& a, const float4& b) {
    return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
  }
};

// Where `from` writes for `to` in an operation.
__device__ float* Inbox(const PeerGroup& group, int to, int from, uint32_t epoch) {
  return group.inbox[to] + (static_cast<int64_t>(epoch % 2) * group.ranks + from) * group.capacity;
}

template <class T>
__device__ void Send(const AllReduceParams& p, int64_t count, uint32_t epoch) {
  const auto* data = reinterpret_cast<const T*>(p.data);
  for (int64_t i = blockIdx.x * kThreads + threadIdx.x; i < count; i += gridDim.x * kThreads) {
    const T value = data[i];
    for (int peer = 0; peer < p.group.ranks; ++peer) {
      if (peer != p.group.rank) {
        reinterpret_cast<T*>(Inbox(p.group, peer, p.group.rank, epoch))[i] = value;
      }
    }
  }
}

template <class T>
__device__ void AddUp(const AllReduceParams& p, int64_t count, uint32_t epoch) {
  auto* data = reinterpret_cast<T*>(p.data);
  for (int64_t i = blockIdx.x * kThreads + threadIdx.x; i < count; i += gridDim.x * kThreads) {
    const auto of = [&](int rank) {
      // Past L1, which may hold what another operation left here.
      return rank == p.group.rank ? data[i]
                                  : __ldcg(reinterpret_cast<const T*>(Inbox(p.group, p.group.rank, rank, epoch)) + i);
    };
    T sum = of(0);
    for (int rank = 1; rank < p.group.ranks; ++rank) {
      sum = Adder<T>::Add(sum, of(rank));
    }
    data[i] = sum;
  }
}

// Words that `from` writes for `to`, behind the inbox's numbers: they are never anything else, so that no number looks
// like an epoch.
__device__ uint4* Words(const PeerGroup& group, int to, int from, uint32_t epoch) {
  auto* words = reinterpret_cast<uint4*>(group.inbox[to] + 2 * group.ranks * group.capacity);
  return words + (static_cast<int64_t>(epoch % 2) * group.ranks + from) * (kMostWords / 2);
}

// Every block has a part, since only then blocks of two operations are as far apart as all_reduce.h says.
__device__ bool TakesWords(int64_t count) { return count <= kMostWords && count >= 2 * gridDim.x; }

__device__ void SumWords(const AllReduceParams& p, int64_t count, uint32_t epoch) {
  const int own = p.group.rank;
  const int64_t pairs = (count + 1) / 2;
  const int64_t begin = pairs * blockIdx.x / gridDim.x + threadIdx.x;
  const int64_t end = pairs * (blockIdx.x + 1) / gridDim.x;
  const auto load = [&](int64_t i) -> float2 { return {p.data[2 * i], 2 * i + 1 < count ? p.data[2 * i + 1] : 0.0F}; };
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
    p.data[2 * i] = sum.x;
    if (2 * i + 1 < count) {
      p.data[2 * i + 1] = sum.y;
    }
  }
}

__device__ void SumFlagged(const AllReduceParams& p, int64_t count, uint32_t epoch) {
  const bool vectors = p.cols % 4 == 0;
  if (vectors) {
    Send<float4>(p, count / 4, epoch);
  } else {
    Send<float>(p, count, epoch);
  }
  __threadfence_system();
  __syncthreads();
  const int peer = static_cast<int>(threadIdx.x);
  if (peer < p.group.ranks && peer != p.group.rank) {
    StoreFlag(p.group.flags[peer] + p.group.rank * p.group.blocks + blockIdx.x, epoch);
    WaitForPeer(p.group, peer, epoch);
  }
  __syncthreads();
  if (vectors) {
    AddUp<float4>(p, count / 4, epoch);
  } else {
    AddUp<float>(p, count, epoch);
  }
}

// It never starts early itself: with three kernels on the device at a time, products of one wide row took up to a third
// longer. Dependents start when all blocks have, so none takes the place of a block that a peer waits for. With 32
// registers a thread there is room for a block beside two of a product.
__global__ void __launch_bounds__(kThreads, 8) AllReduceKernel(const AllReduceParams p) {
  if (p.group.overlaps) {
    LaunchDependents();
  }
  const uint32_t epoch = p.group.epochs[blockIdx.x] + 1;
  const int64_t count = NumRows(p.num_rows, p.max_rows) * p.cols;
  if (TakesWords(count)) {
    SumWords(p, count, epoch);
  } else {
    SumFlagged(p, count, epoch);
  }
  __syncthreads();  // all have read it
  if (threadIdx.x == 0) {
    p.group.epochs[blockIdx.x] = epoch;
  }
}

}  // namespace

size_t PeerInboxBytes(int ranks, int64_t capacity) {
  const size_t numbers = static_cast<size_t>(capacity) * sizeof(float);
  return 2 * static_cast<size_t>(ranks) * (numbers + kMostWords * sizeof(uint64_t));
}

size_t PeerFlagBytes(int ranks, int blocks) {
  return static_cast<size_t>(ranks) * static_cast<size_t>(blocks) * sizeof(uint32_t);
}

cudaError_t LaunchAllReduce(const AllReduceParams& params, cudaStream_t stream) {
  if (params.max_rows * params.cols > params.group.capacity || params.group.ranks > kMaxPeers) {
    return cudaErrorInvalidValue;
  }
  const cudaError_t error = ShareMultiprocessors(reinterpret_cast<const void*>(&AllReduceKernel));
  if (error != cudaSuccess) {
    return error;
  }
  return LaunchGrid(AllReduceKernel, dim3(static_cast<unsigned>(params.group.blocks)), dim3(kThreads), 0, stream,
                    /*programmatic=*/false, 1, params);
}

}  // namespace flexquant::cuda
