#ifndef FLEXQUANT_EXECUTOR_CUDA_STEP_ARRAYS_H_
#define FLEXQUANT_EXECUTOR_CUDA_STEP_ARRAYS_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "executor/cuda/cuda_forward.h"
#include "executor/cuda/device_memory.h"
#include "kernels/cuda/sampling.h"

namespace flexquant::executor {

// What a pass reads from and writes to the host: pinned arrays and their copies on the device, at fixed addresses so
// that a captured graph can use them. The host fills the pinned arrays only when the pass before has ended.
class StepArrays {
 public:
  struct Shape {
    int num_layer_groups = 0;
    int64_t max_rows = 0;       // tokens
    int64_t max_sequences = 0;  // rows of the block table
    int64_t blocks_a_sequence = 0;
  };
  static absl::StatusOr<std::unique_ptr<StepArrays>> Create(const Shape& shape);

  // Pinned; [max_rows], except as said.
  uint32_t* tokens() const { return At<uint32_t>(host_, offsets_.tokens); }
  int32_t* positions() const { return At<int32_t>(host_, offsets_.positions); }
  int32_t* num_rows() const { return At<int32_t>(host_, offsets_.num_rows); }              // [1]
  int32_t* row_starts() const { return At<int32_t>(host_, offsets_.row_starts); }          // [2]
  int32_t* start_position() const { return At<int32_t>(host_, offsets_.start_position); }  // [1]
  uint8_t* widths() const { return At<uint8_t>(host_, offsets_.widths); }                  // [groups][kMaxGemvRows]
  cuda::RowSampling* sampling() const { return At<cuda::RowSampling>(host_, offsets_.sampling); }  // [kMaxGemvRows]
  // [kMaxGemvRows], written by the device.
  cuda::RowSample* results() const { return results_.as<cuda::RowSample>(); }

  // Row of the pinned block tables.
  void SetBlockTable(int64_t sequence, absl::Span<const uint32_t> blocks);
  // Queues the copies of what was filled: the arrays, and block tables of `sequences` sequences of up to `blocks`
  // blocks.
  absl::Status Upload(int64_t sequences, int64_t blocks, cudaStream_t stream) const;

  const PassInputs& device() const { return device_inputs_; }

 private:
  struct Offsets {
    size_t tokens, positions, num_rows, row_starts, start_position, widths, sampling, end;
  };
  template <class T, class Buffer>
  static T* At(const Buffer& buffer, size_t offset) {
    return reinterpret_cast<T*>(buffer.template as<uint8_t>() + offset);
  }

  StepArrays() = default;

  Shape shape_;
  Offsets offsets_{};
  PinnedBuffer host_;
  DeviceBuffer device_;
  PinnedBuffer host_tables_;
  DeviceBuffer device_tables_;
  DeviceBuffer zeros_;  // [max_rows]
  PinnedBuffer results_;
  PassInputs device_inputs_;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CUDA_STEP_ARRAYS_H_
