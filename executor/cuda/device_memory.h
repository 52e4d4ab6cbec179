#ifndef FLEXQUANT_EXECUTOR_CUDA_DEVICE_MEMORY_H_
#define FLEXQUANT_EXECUTOR_CUDA_DEVICE_MEMORY_H_

// Owners of CUDA memory and graphs, and CUDA errors as statuses. All belong to the device that was current
// when they were made.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace flexquant::executor {

// RESOURCE_EXHAUSTED for memory, INTERNAL else; names `what` and CUDA's own error.
absl::Status CudaStatus(cudaError_t error, absl::string_view what);

#define FQ_RETURN_IF_CUDA_ERROR(expression)                                   \
  do {                                                                        \
    if (const cudaError_t fq_error = (expression); fq_error != cudaSuccess) { \
      return ::flexquant::executor::CudaStatus(fq_error, #expression);        \
    }                                                                         \
  } while (false)

// Memory that `Free` gives back. Move-only.
template <cudaError_t (*Free)(void*)>
class CudaBuffer {
 public:
  CudaBuffer() = default;
  CudaBuffer(void* data, size_t bytes) : data_(data), bytes_(bytes) {}
  CudaBuffer(CudaBuffer&& other) noexcept { *this = std::move(other); }
  CudaBuffer& operator=(CudaBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  CudaBuffer(const CudaBuffer&) = delete;
  CudaBuffer& operator=(const CudaBuffer&) = delete;
  ~CudaBuffer() {
    if (data_ != nullptr) {
      Free(data_);
    }
  }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

using DeviceBuffer = CudaBuffer<&cudaFree>;
using PinnedBuffer = CudaBuffer<&cudaFreeHost>;

// At least 256-byte aligned; contents undefined. 0 bytes is an empty buffer. RESOURCE_EXHAUSTED says how much is free.
absl::StatusOr<DeviceBuffer> AllocateDevice(size_t bytes, absl::string_view what);
// The same, zeroed.
absl::StatusOr<DeviceBuffer> AllocateDeviceZeroed(size_t bytes, absl::string_view what);
// Page-locked host memory, zeroed, which kernels can write through the same address.
absl::StatusOr<PinnedBuffer> AllocatePinned(size_t bytes, absl::string_view what);

// A captured and instantiated graph. Move-only.
class CudaGraph {
 public:
  // What `launch` launches on `stream`, which is captured meanwhile; nothing of it runs. Errors of `launch` first.
  static absl::StatusOr<CudaGraph> Capture(cudaStream_t stream, absl::FunctionRef<absl::Status()> launch);

  CudaGraph() = default;
  CudaGraph(CudaGraph&& other) noexcept { *this = std::move(other); }
  CudaGraph& operator=(CudaGraph&& other) noexcept {
    std::swap(exec_, other.exec_);
    return *this;
  }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  ~CudaGraph();

  cudaGraphExec_t exec() const { return exec_; }
  absl::Status Launch(cudaStream_t stream) const {
    return CudaStatus(cudaGraphLaunch(exec_, stream), "launching a graph");
  }

 private:
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CUDA_DEVICE_MEMORY_H_
