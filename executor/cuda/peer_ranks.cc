#include "executor/cuda/peer_ranks.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/cuda/nested_gemv.h"

namespace flexquant::executor {
namespace {

constexpr int kBlocks = 32;
constexpr int kManyBlocks = 128;
// Ranks on one device leave multiprocessors to each other while they wait.
constexpr int kBlocksSharing = 8;

template <class T>
uint64_t Value(T* pointer) {
  return reinterpret_cast<uint64_t>(pointer);
}

}  // namespace

absl::Status PeerRanks::Reach(const std::vector<int>& devices) const {
  const int own = devices[static_cast<size_t>(rank_)];
  for (const int device : devices) {
    if (device == own) {
      continue;
    }
    int can = 0;
    FQ_RETURN_IF_CUDA_ERROR(cudaDeviceCanAccessPeer(&can, own, device));
    if (can == 0) {
      return absl::UnimplementedError(absl::StrCat("cuda:", own, " cannot reach the memory of cuda:", device,
                                                   ", which tensor parallelism needs; choose devices that NVLink or "
                                                   "PCIe connect directly (nvidia-smi topo -p2p r)"));
    }
    const cudaError_t error = cudaDeviceEnablePeerAccess(device, 0);
    if (error == cudaErrorPeerAccessAlreadyEnabled) {
      cudaGetLastError();
    } else {
      FQ_RETURN_IF_ERROR(CudaStatus(error, "reaching another GPU's memory"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PeerRanks>> PeerRanks::Create(RankGroup& group, int rank,
                                                             const std::vector<int>& devices, absl::Duration timeout) {
  if (devices.size() > cuda::kMaxPeers) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor parallelism of ", devices.size(), "; GPUs allow 1 to ", cuda::kMaxPeers));
  }
  auto made = std::unique_ptr<PeerRanks>(new PeerRanks(group, rank));
  FQ_RETURN_IF_ERROR(made->Reach(devices));
  const auto ranks = static_cast<int>(devices.size());
  std::vector<int> distinct = devices;
  std::sort(distinct.begin(), distinct.end());
  const bool sharing = std::adjacent_find(distinct.begin(), distinct.end()) != distinct.end();
  made->ranks_on_device_ =
      static_cast<int>(std::count(devices.begin(), devices.end(), devices[static_cast<size_t>(rank)]));

  cuda::PeerGroup& peers = made->peers_;
  peers.rank = rank;
  peers.ranks = ranks;
  peers.blocks = sharing ? kBlocksSharing : kBlocks;
  peers.many_blocks = sharing ? kBlocksSharing : kManyBlocks;
  peers.overlaps = !sharing && cuda::HopperPathSupported();
  peers.timeout_ns = static_cast<uint64_t>(absl::ToInt64Nanoseconds(timeout));
  FQ_ASSIGN_OR_RETURN(made->words_, AllocateDeviceZeroed(cuda::PeerWordBytes(ranks), "sums over the ranks"));
  FQ_ASSIGN_OR_RETURN(made->flags_, AllocateDeviceZeroed(cuda::PeerFlagBytes(peers), "sums over the ranks"));
  FQ_ASSIGN_OR_RETURN(made->epochs_, AllocateDeviceZeroed(static_cast<size_t>(peers.many_blocks) * sizeof(uint32_t),
                                                          "sums over the ranks"));
  FQ_ASSIGN_OR_RETURN(made->host_, AllocatePinned(2 * sizeof(uint32_t), "sums over the ranks"));
  // Zeroed before a peer writes.
  FQ_RETURN_IF_CUDA_ERROR(cudaDeviceSynchronize());
  peers.epochs = made->epochs_.as<uint32_t>();
  peers.abort = made->host_.as<uint32_t>();
  peers.error = made->host_.as<uint32_t>() + 1;

  FQ_ASSIGN_OR_RETURN(const auto words, group.AllGather(rank, Value(made->words_.as<uint4>())));
  FQ_ASSIGN_OR_RETURN(const auto flags, group.AllGather(rank, Value(made->flags_.as<uint32_t>())));
  FQ_ASSIGN_OR_RETURN(const auto aborts, group.AllGather(rank, Value(made->host_.as<uint32_t>())));
  for (size_t peer = 0; peer < devices.size(); ++peer) {
    peers.words[peer] = reinterpret_cast<uint4*>(words[peer]);
    peers.flags[peer] = reinterpret_cast<uint32_t*>(flags[peer]);
    made->aborts_.push_back(reinterpret_cast<uint32_t*>(aborts[peer]));
  }
  return made;
}

absl::Status PeerRanks::Share(float* data) {
  FQ_ASSIGN_OR_RETURN(const std::vector<uint64_t> all, group_.AllGather(rank_, Value(data)));
  for (size_t peer = 0; peer < all.size(); ++peer) {
    peers_.data[peer] = reinterpret_cast<float*>(all[peer]);
  }
  return absl::OkStatus();
}

absl::Status PeerRanks::LaunchSum(int64_t cols, const int32_t* num_rows, int max_rows, cudaStream_t stream) const {
  FQ_CHECK(peers_.data[rank_] != nullptr);
  cuda::AllReduceParams params;
  params.group = peers_;
  params.cols = cols;
  params.num_rows = num_rows;
  params.max_rows = max_rows;
  return CudaStatus(cuda::LaunchAllReduce(params, stream), "a sum over the ranks");
}

absl::Status PeerRanks::LaunchBarrier(cudaStream_t stream) const {
  cuda::AllReduceParams params;
  params.group = peers_;
  return CudaStatus(cuda::LaunchAllReduce(params, stream), "waiting for the ranks");
}

absl::StatusOr<uint64_t> PeerRanks::FromRankZero(uint64_t value) const {
  FQ_ASSIGN_OR_RETURN(const std::vector<uint64_t> values, group_.AllGather(rank_, value));
  return values[0];
}

absl::StatusOr<uint64_t> PeerRanks::Least(uint64_t value) const {
  FQ_ASSIGN_OR_RETURN(const std::vector<uint64_t> values, group_.AllGather(rank_, value));
  return *std::min_element(values.begin(), values.end());
}

absl::Status PeerRanks::Check() const {
  const uint32_t error = *static_cast<const volatile uint32_t*>(peers_.error);
  if (error == 0) {
    return absl::OkStatus();
  }
  return absl::DeadlineExceededError(absl::StrCat("it waited ", peers_.timeout_ns / 1'000'000'000U, " s for rank ",
                                                  error - 1, " on the device: that one hangs"));
}

void PeerRanks::Abort() {
  for (uint32_t* abort : aborts_) {
    *static_cast<volatile uint32_t*>(abort) = 1;
  }
}

}  // namespace flexquant::executor
