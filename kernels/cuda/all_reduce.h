#ifndef FLEXQUANT_KERNELS_CUDA_ALL_REDUCE_H_
#define FLEXQUANT_KERNELS_CUDA_ALL_REDUCE_H_

// Sums over the ranks of a group whose devices reach each other's memory: every rank writes its numbers into a place of
// each other's memory, with the operation's number in each word (few numbers) or a flag behind all (many), waits for
// the others' and adds all in the order of the ranks, so that all get the same bits and a run repeats. Can be captured;
// ranks may be on one device.
//
// All ranks launch the same operations in the same order. A thread block of one rank waits only for the block of the
// same number of the others, in every operation, and the numbers of two operations lie in different halves of the
// memory: who has a block's numbers knows that the sender has read all of the operation before.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace flexquant::cuda {

inline constexpr int kMaxPeers = 8;

// Of one rank. All pointers are device memory, peers' too, unless said otherwise.
struct PeerGroup {
  int rank = 0;
  int ranks = 1;
  int blocks = 0;  // thread blocks of an operation; the same for all ranks
  // What is behind an operation may start while it waits for peers, where kernels can start early (sm_90 and later).
  // Not for ranks on one device: what starts early would take the multiprocessors that another rank needs to arrive.
  bool overlaps = false;
  int64_t capacity = 0;             // floats that an operation sums at most, a multiple of 4
  float* inbox[kMaxPeers] = {};     // of each rank, PeerInboxBytes
  uint32_t* flags[kMaxPeers] = {};  // of each rank, PeerFlagBytes, zeroed
  uint32_t* epochs = nullptr;       // own, [blocks], zeroed: operations done
  // Pinned host memory. `abort`: not 0 ends all waiting. `error`: becomes 1 + the rank that did not come within
  // timeout_ns, or stays 0; the sum is then undefined.
  const volatile uint32_t* abort = nullptr;
  uint32_t* error = nullptr;
  uint64_t timeout_ns = 0;
};

size_t PeerInboxBytes(int ranks, int64_t capacity);
size_t PeerFlagBytes(int ranks, int blocks);

struct AllReduceParams {
  PeerGroup group;
  float* data = nullptr;  // [max_rows, cols], 16-byte aligned; becomes the sum
  int64_t cols = 0;
  const int32_t* num_rows = nullptr;  // [1], or null for max_rows; the same for all ranks
  int max_rows = 0;                   // max_rows * cols is at most the capacity; 0: only waits for all ranks
};

// Begins when what is in front in the stream has ended. Nothing behind it begins before it has ended, unless the group
// overlaps: then what is launched to start early does, and waits for it as for any kernel.
cudaError_t LaunchAllReduce(const AllReduceParams& params, cudaStream_t stream);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_ALL_REDUCE_H_
