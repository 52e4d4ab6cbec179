// Sums over ranks alone: our kernel over peer memory beside NCCL's, both in CUDA graphs. NCCL is loaded where it is
// (libnccl.so.2, or the path that is the only argument); without it only ours is measured.

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <array>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/thread_pool.h"
#include "executor/cuda/device_memory.h"
#include "executor/cuda/peer_ranks.h"

namespace flexquant::executor {
namespace {

constexpr int64_t kMaxRows = 2048;
constexpr int64_t kCols = 8192;
constexpr int kSums = 100;  // of a graph
constexpr int kLaunches = 11;

// What is needed of nccl.h.
struct Nccl {
  using Comm = void*;
  int (*init_all)(Comm* comms, int count, const int* devices) = nullptr;
  int (*all_reduce)(const void* from, void* to, size_t count, int type, int operation, Comm, cudaStream_t) = nullptr;
  int (*version)(int* version) = nullptr;
  const char* (*last_error)(Comm) = nullptr;
  static constexpr int kFloat = 7;
  static constexpr int kSum = 0;

  bool Load(const char* path) {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      std::printf("without NCCL: %s\n", dlerror());
      return false;
    }
    init_all = reinterpret_cast<decltype(init_all)>(dlsym(library, "ncclCommInitAll"));
    all_reduce = reinterpret_cast<decltype(all_reduce)>(dlsym(library, "ncclAllReduce"));
    version = reinterpret_cast<decltype(version)>(dlsym(library, "ncclGetVersion"));
    last_error = reinterpret_cast<decltype(last_error)>(dlsym(library, "ncclGetLastError"));
    return last_error != nullptr && init_all != nullptr && all_reduce != nullptr && version != nullptr;
  }
};

struct Event {
  Event() { cudaEventCreate(&event); }
  ~Event() { cudaEventDestroy(event); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t event = nullptr;
};

struct NcclRank {
  const Nccl* nccl = nullptr;  // null: without
  Nccl::Comm comm = nullptr;

  absl::Status Sum(float* data, int64_t count, cudaStream_t stream) const {
    const int error = nccl->all_reduce(data, data, static_cast<size_t>(count), Nccl::kFloat, Nccl::kSum, comm, stream);
    return error == 0 ? absl::OkStatus()
                      : absl::InternalError(absl::StrCat("ncclAllReduce: error ", error, ": ", nccl->last_error(comm)));
  }
};

// Least microseconds of a sum, of several launches of a graph of kSums.
absl::StatusOr<double> Time(RankGroup& group, int rank, cudaStream_t stream, absl::FunctionRef<absl::Status()> sum) {
  FQ_ASSIGN_OR_RETURN(const CudaGraph graph, CudaGraph::Capture(stream, [&]() -> absl::Status {
                        for (int i = 0; i < kSums; ++i) {
                          FQ_RETURN_IF_ERROR(sum());
                        }
                        return absl::OkStatus();
                      }));
  FQ_RETURN_IF_CUDA_ERROR(cudaGraphUpload(graph.exec(), stream));
  const Event begin;
  const Event end;
  double least = 0;
  for (int launch = 0; launch < kLaunches; ++launch) {
    FQ_RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream));
    FQ_RETURN_IF_ERROR(group.Barrier(rank));
    FQ_RETURN_IF_CUDA_ERROR(cudaEventRecord(begin.event, stream));
    FQ_RETURN_IF_ERROR(graph.Launch(stream));
    FQ_RETURN_IF_CUDA_ERROR(cudaEventRecord(end.event, stream));
    FQ_RETURN_IF_CUDA_ERROR(cudaEventSynchronize(end.event));
    float ms = 0;
    FQ_RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&ms, begin.event, end.event));
    const double us = 1e3 * static_cast<double>(ms) / kSums;
    least = launch <= 1 || us < least ? us : least;
  }
  return least;
}

absl::Status RunRank(RankGroup& group, int rank, const std::vector<int>& devices, const NcclRank& nccl) {
  FQ_RETURN_IF_CUDA_ERROR(cudaSetDevice(devices[static_cast<size_t>(rank)]));
  cudaStream_t stream = nullptr;
  FQ_RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  FQ_ASSIGN_OR_RETURN(const auto peers, PeerRanks::Create(group, rank, devices, absl::Seconds(20)));
  FQ_ASSIGN_OR_RETURN(const DeviceBuffer data, AllocateDeviceZeroed(kMaxRows * kCols * sizeof(float), "numbers"));
  FQ_RETURN_IF_ERROR(peers->Share(data.as<float>()));
  for (const auto& [rows, cols] : {std::array<int64_t, 2>{0, 0},
                                   {1, 4096},
                                   {1, 8192},
                                   {4, 8192},
                                   {16, 8192},
                                   {32, 8192},
                                   {64, 8192},
                                   {512, 8192},
                                   {2048, 8192}}) {
    FQ_ASSIGN_OR_RETURN(const double own, Time(group, rank, stream, [&, rows = rows, cols = cols] {
                          return rows == 0 ? peers->LaunchBarrier(stream)
                                           : peers->LaunchSum(cols, nullptr, static_cast<int>(rows), stream);
                        }));
    FQ_RETURN_IF_ERROR(peers->Check());
    double theirs = 0;
    if (nccl.nccl != nullptr && rows > 0) {
      const int64_t count = rows * cols;
      // NCCL connects when it is first used, which cannot be captured.
      FQ_RETURN_IF_ERROR(nccl.Sum(data.as<float>(), count, stream));
      FQ_RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream));
      FQ_ASSIGN_OR_RETURN(theirs, Time(group, rank, stream, [&] { return nccl.Sum(data.as<float>(), count, stream); }));
    }
    if (rank == 0) {
      std::printf("%5ld x %5ld floats: peer %8.2f us, NCCL %8.2f us\n", rows, cols, own, theirs);
      std::fflush(stdout);
    }
  }
  FQ_RETURN_IF_ERROR(group.Barrier(rank));
  return CudaStatus(cudaStreamDestroy(stream), "a stream");
}

int Main(int argc, char** argv) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count < 2) {
    std::printf("needs two GPUs, there are %d\n", count);
    return 1;
  }
  std::vector<int> devices(static_cast<size_t>(count));
  for (int device = 0; device < count; ++device) {
    devices[static_cast<size_t>(device)] = device;
  }
  Nccl nccl;
  std::vector<Nccl::Comm> comms(devices.size());
  int version = 0;
  const bool has_nccl = nccl.Load(argc > 1 ? argv[1] : "libnccl.so.2") && nccl.version(&version) == 0 &&
                        nccl.init_all(comms.data(), count, devices.data()) == 0;
  std::printf("%d GPUs, NCCL %d %s\n", count, version, has_nccl ? "" : "(not used)");
  RankGroup group(count, absl::Minutes(1));
  ThreadPool threads(count);
  threads.Run([&](int rank) {
    const absl::Status status =
        RunRank(group, rank, devices, {has_nccl ? &nccl : nullptr, comms[static_cast<size_t>(rank)]});
    if (!status.ok()) {
      group.Abort(rank, status);
    }
  });
  if (!group.status().ok()) {
    std::printf("%s\n", group.status().ToString().c_str());
  }
  std::fflush(stdout);
  return group.status().ok() ? 0 : 1;
}

}  // namespace
}  // namespace flexquant::executor

int main(int argc, char** argv) { return flexquant::executor::Main(argc, argv); }
