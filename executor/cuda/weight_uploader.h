#ifndef FLEXQUANT_EXECUTOR_CUDA_WEIGHT_UPLOADER_H_
#define FLEXQUANT_EXECUTOR_CUDA_WEIGHT_UPLOADER_H_

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model_config.h"
#include "common/nested_matrix.h"
#include "common/thread_pool.h"
#include "executor/cuda/device_memory.h"
#include "kernels/cuda/nested_layout.h"

namespace flexquant::executor {

// Copies tiles of matrices to the device in pieces through two pinned buffers, so that reading the file, the bus and
// repacking overlap. Not thread-safe.
class WeightUploader {
 public:
  // Of a buffer that holds at least one tile of every matrix of the model.
  static size_t BufferBytes(const ModelConfig& config, int64_t group_size);
  // Device memory of an uploader with such buffers.
  static uint64_t DeviceBytes(size_t buffer_bytes) { return kBuffers * buffer_bytes; }

  static absl::StatusOr<std::unique_ptr<WeightUploader>> Create(size_t buffer_bytes);
  // Waits for what was queued.
  ~WeightUploader();
  WeightUploader(const WeightUploader&) = delete;
  WeightUploader& operator=(const WeightUploader&) = delete;

  // Queues a matrix; `from` may be released when it returns. `queued` is called after each piece with its bytes; an
  // error that it returns is returned.
  absl::Status Upload(const NestedMatrix& from, const cuda::DeviceNestedMatrix& to,
                      absl::FunctionRef<absl::Status(uint64_t)> queued);
  // Waits until all is on the device.
  absl::Status Finish();

 private:
  static constexpr size_t kBuffers = 2;
  struct Stage {
    PinnedBuffer host;
    DeviceBuffer device;
    cudaEvent_t done = nullptr;
  };
  struct Copy {
    const uint8_t* from;
    uint8_t* to;
    size_t bytes;
  };

  explicit WeightUploader(size_t buffer_bytes);
  absl::Status UploadPiece(const NestedMatrix& from, const cuda::DeviceNestedMatrix& to, int64_t first, int64_t count);

  const size_t buffer_bytes_;
  ThreadPool pool_;
  std::vector<Copy> copies_;  // of a piece
  std::array<Stage, kBuffers> stages_;
  cudaStream_t stream_ = nullptr;
  size_t next_ = 0;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CUDA_WEIGHT_UPLOADER_H_
