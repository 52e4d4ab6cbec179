#include "kernels/cuda/all_reduce.h"
#include "kernels/cuda/ops_common.cuh"

namespace flexquant::cuda {
namespace {

constexpr int kThreads = 256;
// Waits between looks at the host's memory.
constexpr int kSpinsAPoll = 1024;

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

// Until `peer` has reached `epoch` in this block's operations.
__device__ void WaitForPeer(const PeerGroup& group, int peer, uint32_t epoch) {
  const uint32_t* flag = group.flags[group.rank] + peer * group.blocks + blockIdx.x;
  const uint64_t begin = Nanoseconds();
  for (int spins = 1; static_cast<int32_t>(LoadFlag(flag) - epoch) < 0; ++spins) {
    if (spins % kSpinsAPoll == 0) {
      if (*group.abort != 0) {
        return;
      }
      if (Nanoseconds() - begin > group.timeout_ns) {
        *group.error = 1 + static_cast<uint32_t>(peer);
        return;
      }
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

// Nothing behind it may take its multiprocessors while it waits, so it lets dependents start only by ending.
__global__ void __launch_bounds__(kThreads) AllReduceKernel(const AllReduceParams p) {
  const uint32_t epoch = p.group.epochs[blockIdx.x] + 1;
  const int64_t count = NumRows(p.num_rows, p.max_rows) * p.cols;
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
  if (threadIdx.x == 0) {
    p.group.epochs[blockIdx.x] = epoch;
  }
}

}  // namespace

size_t PeerInboxBytes(int ranks, int64_t capacity) {
  return 2 * static_cast<size_t>(ranks) * static_cast<size_t>(capacity) * sizeof(float);
}

size_t PeerFlagBytes(int ranks, int blocks) {
  return static_cast<size_t>(ranks) * static_cast<size_t>(blocks) * sizeof(uint32_t);
}

cudaError_t LaunchAllReduce(const AllReduceParams& params, cudaStream_t stream) {
  if (params.max_rows * params.cols > params.group.capacity || params.group.ranks > kMaxPeers) {
    return cudaErrorInvalidValue;
  }
  return LaunchGrid(AllReduceKernel, dim3(static_cast<unsigned>(params.group.blocks)), dim3(kThreads), 0, stream,
                    /*programmatic=*/false, 1, params);
}

}  // namespace flexquant::cuda
