#ifndef FLEXQUANT_KERNELS_CUDA_ALL_REDUCE_H_
#define FLEXQUANT_KERNELS_CUDA_ALL_REDUCE_H_

// Sums over the ranks of a group whose devices reach each other's memory, added in the order of ranks, so that all get
// the same bits and a run repeats. Can be captured; ranks may be on one device.
//
// Few numbers: every rank writes its own into a place of each other's memory, with the operation's number in each word,
// waits for the others' and adds. Many: each rank owns a share of them, waits until all ranks have come, reads that
// share from every rank's buffer, adds, writes the sum into every rank's buffer and waits until all have. So each
// number crosses a link once each way, whatever the number of ranks.
//
// All ranks launch the same operations in the same order. A thread block of one rank waits only for the block of the
// same number of the others, in every operation, and the words of two operations lie in different halves of the
// memory: who has a block's words knows that the sender has read all of the operation before.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace flexquant::cuda {

inline constexpr int kMaxPeers = 8;
// Floats that travel as words at most; of more, the bytes count.
inline constexpr int64_t kMostPeerWords = 128 << 10;

// Of one rank. All pointers are device memory, peers' too, unless said otherwise.
struct PeerGroup {
  int rank = 0;
  int ranks = 1;
  // Thread blocks of an operation of few numbers, and of many, at least as many; the same for all ranks.
  int blocks = 0;
  int many_blocks = 0;
  // What is behind an operation may start while it waits for peers, where kernels can start early (sm_90 and later).
  // Not for ranks on one device: what starts early would take the multiprocessors that another rank needs to arrive.
  bool overlaps = false;
  uint4* words[kMaxPeers] = {};     // of each rank, PeerWordBytes, zeroed
  uint32_t* flags[kMaxPeers] = {};  // of each rank, PeerFlagBytes, zeroed
  float* data[kMaxPeers] = {};      // of each rank: what is summed, 16-byte aligned
  uint32_t* epochs = nullptr;       // own, [many_blocks], zeroed
  // Pinned host memory. `abort`: not 0 ends all waiting. `error`: becomes 1 + the rank that did not come within
  // timeout_ns, or stays 0; the sum is then undefined.
  const volatile uint32_t* abort = nullptr;
  uint32_t* error = nullptr;
  uint64_t timeout_ns = 0;
};

size_t PeerWordBytes(int ranks);
size_t PeerFlagBytes(const PeerGroup& group);

struct AllReduceParams {
  PeerGroup group;  // data [max_rows, cols] of every rank becomes the sum
  int64_t cols = 0;
  const int32_t* num_rows = nullptr;  // [1], or null for max_rows; the same for all ranks
  int max_rows = 0;                   // 0: only waits for all ranks
};

// Begins when what is in front in the stream has ended. Nothing behind it begins before it has ended, unless the group
// overlaps: then what is launched to start early does, and waits for it as for any kernel.
cudaError_t LaunchAllReduce(const AllReduceParams& params, cudaStream_t stream);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_ALL_REDUCE_H_
