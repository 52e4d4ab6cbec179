#include "executor/cuda/device_memory.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace flexquant::executor {
namespace {

size_t ToMiB(size_t bytes) { return (bytes + (size_t{1} << 20) - 1) >> 20; }

}  // namespace

absl::Status CudaStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) {
    return absl::OkStatus();
  }
  const std::string message =
      absl::StrCat("CUDA: ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ") at ", what);
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(message) : absl::InternalError(message);
}

absl::StatusOr<DeviceBuffer> AllocateDevice(size_t bytes, absl::string_view what) {
  if (bytes == 0) {
    return DeviceBuffer();
  }
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // Not sticky: the device goes on.
    size_t free = 0;
    size_t total = 0;
    cudaMemGetInfo(&free, &total);
    return absl::ResourceExhaustedError(absl::StrCat(what, " needs ", ToMiB(bytes), " MiB of device memory, ",
                                                     ToMiB(free), " of ", ToMiB(total), " MiB are free"));
  }
  FQ_RETURN_IF_ERROR(CudaStatus(error, what));
  return DeviceBuffer(data, bytes);
}

absl::StatusOr<DeviceBuffer> AllocateDeviceZeroed(size_t bytes, absl::string_view what) {
  FQ_ASSIGN_OR_RETURN(DeviceBuffer buffer, AllocateDevice(bytes, what));
  if (bytes > 0) {
    FQ_RETURN_IF_CUDA_ERROR(cudaMemset(buffer.as<void>(), 0, bytes));
  }
  return buffer;
}

absl::StatusOr<PinnedBuffer> AllocatePinned(size_t bytes, absl::string_view what) {
  if (bytes == 0) {
    return PinnedBuffer();
  }
  void* data = nullptr;
  FQ_RETURN_IF_ERROR(CudaStatus(cudaHostAlloc(&data, bytes, cudaHostAllocDefault), what));
  std::memset(data, 0, bytes);
  return PinnedBuffer(data, bytes);
}

absl::StatusOr<CudaGraph> CudaGraph::Capture(cudaStream_t stream, absl::FunctionRef<absl::Status()> launch) {
  FQ_RETURN_IF_CUDA_ERROR(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  const absl::Status launched = launch();
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  FQ_RETURN_IF_ERROR(launched);
  FQ_RETURN_IF_ERROR(CudaStatus(ended, "capturing a graph"));
  CudaGraph result;
  const cudaError_t instantiated = cudaGraphInstantiate(&result.exec_, graph, 0);
  cudaGraphDestroy(graph);
  FQ_RETURN_IF_ERROR(CudaStatus(instantiated, "instantiating a graph"));
  return result;
}

CudaGraph::~CudaGraph() {
  if (exec_ != nullptr) {
    cudaGraphExecDestroy(exec_);
  }
}

}  // namespace flexquant::executor
