#ifndef FLEXQUANT_EXECUTOR_CUDA_PEER_RANKS_H_
#define FLEXQUANT_EXECUTOR_CUDA_PEER_RANKS_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "executor/cuda/device_memory.h"
#include "executor/tensor_parallel/rank_group.h"
#include "kernels/cuda/all_reduce.h"

namespace flexquant::executor {

// One rank's end of the device memory that a group of GPUs (or of ranks on one) shares, and the launches that use it.
// Not thread-safe, but Abort is.
class PeerRanks {
 public:
  // Called by every rank at the same time, on its own thread with its own device current; `devices` are those of the
  // ranks. UNIMPLEMENTED if devices do not reach each other's memory, INVALID_ARGUMENT for more than cuda::kMaxPeers
  // ranks.
  static absl::StatusOr<std::unique_ptr<PeerRanks>> Create(RankGroup& group, int rank, const std::vector<int>& devices,
                                                           absl::Duration timeout);
  // Of any rank, before its memory goes: after all ranks' work has ended.
  ~PeerRanks() = default;

  // Gives the buffer whose sums follow, 16-byte aligned; called by every rank at the same time. It must live until the
  // work of all ranks has ended.
  absl::Status Share(float* data);
  // Queues the sum of the first max_rows rows of `cols` floats of the shared buffers, which becomes their contents;
  // `num_rows` as in cuda::AllReduceParams.
  absl::Status LaunchSum(int64_t cols, const int32_t* num_rows, int max_rows, cudaStream_t stream) const;
  // Queues a wait for all ranks.
  absl::Status LaunchBarrier(cudaStream_t stream) const;

  // `value` of rank 0, given by it alone; for pointers.
  absl::StatusOr<uint64_t> FromRankZero(uint64_t value) const;
  absl::Status WaitOnHost() const { return group_.Barrier(rank_); }
  // Least of the ranks' values.
  absl::StatusOr<uint64_t> Least(uint64_t value) const;

  // Ranks on this rank's device.
  int ranks_on_device() const { return ranks_on_device_; }

  // Not OK if a launch has waited too long; names the rank that did not come. After the stream was synchronised.
  absl::Status Check() const;
  // Ends the waiting of all ranks' launches.
  void Abort();

 private:
  PeerRanks(RankGroup& group, int rank) : group_(group), rank_(rank) {}
  absl::Status Reach(const std::vector<int>& devices) const;

  RankGroup& group_;
  const int rank_;
  int ranks_on_device_ = 1;
  DeviceBuffer words_;
  DeviceBuffer flags_;
  DeviceBuffer epochs_;
  PinnedBuffer host_;              // abort, then error
  std::vector<uint32_t*> aborts_;  // of all ranks
  cuda::PeerGroup peers_;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CUDA_PEER_RANKS_H_
