#include "executor/cuda/step_arrays.h"

#include <algorithm>

#include "common/status_macros.h"

namespace flexquant::executor {
namespace {

constexpr size_t kAlignment = 256;
constexpr int kMaxRows = cuda::kMaxGemvRows;

}  // namespace

absl::StatusOr<std::unique_ptr<StepArrays>> StepArrays::Create(const Shape& shape) {
  auto arrays = std::unique_ptr<StepArrays>(new StepArrays);
  arrays->shape_ = shape;
  size_t end = 0;
  const auto place = [&end](size_t bytes) {
    const size_t at = end;
    end = (end + bytes + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  };
  const auto rows = static_cast<size_t>(shape.max_rows);
  Offsets& offsets = arrays->offsets_;
  offsets.num_rows = place(sizeof(int32_t));
  offsets.row_starts = place(2 * sizeof(int32_t));
  offsets.start_position = place(sizeof(int32_t));
  offsets.widths = place(static_cast<size_t>(shape.num_layer_groups) * kMaxRows);
  offsets.sampling = place(sizeof(cuda::RowSampling) * kMaxRows);
  offsets.tokens = place(rows * sizeof(uint32_t));
  offsets.positions = place(rows * sizeof(int32_t));
  offsets.end = end;

  const auto table_bytes = static_cast<size_t>(shape.max_sequences * shape.blocks_a_sequence) * sizeof(uint32_t);
  FQ_ASSIGN_OR_RETURN(arrays->host_, AllocatePinned(end, "step arrays"));
  FQ_ASSIGN_OR_RETURN(arrays->device_, AllocateDeviceZeroed(end, "step arrays"));
  FQ_ASSIGN_OR_RETURN(arrays->host_tables_, AllocatePinned(table_bytes, "block tables"));
  FQ_ASSIGN_OR_RETURN(arrays->device_tables_, AllocateDeviceZeroed(table_bytes, "block tables"));
  FQ_ASSIGN_OR_RETURN(arrays->zeros_, AllocateDeviceZeroed(rows * sizeof(int32_t), "step arrays"));
  FQ_ASSIGN_OR_RETURN(arrays->results_, AllocatePinned(sizeof(cuda::RowSample) * kMaxRows, "results"));

  PassInputs& inputs = arrays->device_inputs_;
  const DeviceBuffer& device = arrays->device_;
  inputs.tokens = At<uint32_t>(device, offsets.tokens);
  inputs.positions = At<int32_t>(device, offsets.positions);
  inputs.num_rows = At<int32_t>(device, offsets.num_rows);
  inputs.row_starts = At<int32_t>(device, offsets.row_starts);
  inputs.start_position = At<int32_t>(device, offsets.start_position);
  inputs.widths = At<uint8_t>(device, offsets.widths);
  inputs.sampling = At<cuda::RowSampling>(device, offsets.sampling);
  inputs.block_tables = arrays->device_tables_.as<uint32_t>();
  inputs.block_table_stride = shape.blocks_a_sequence;
  inputs.sequence_of_row = arrays->zeros_.as<int32_t>();
  return arrays;
}

void StepArrays::SetBlockTable(int64_t sequence, absl::Span<const uint32_t> blocks) {
  std::copy(blocks.begin(), blocks.end(), host_tables_.as<uint32_t>() + sequence * shape_.blocks_a_sequence);
}

absl::Status StepArrays::Upload(int64_t sequences, int64_t blocks, cudaStream_t stream) const {
  FQ_RETURN_IF_CUDA_ERROR(
      cudaMemcpyAsync(device_.as<void>(), host_.as<void>(), offsets_.end, cudaMemcpyHostToDevice, stream));
  const size_t pitch = static_cast<size_t>(shape_.blocks_a_sequence) * sizeof(uint32_t);
  return CudaStatus(cudaMemcpy2DAsync(device_tables_.as<void>(), pitch, host_tables_.as<void>(), pitch,
                                      static_cast<size_t>(blocks) * sizeof(uint32_t), static_cast<size_t>(sequences),
                                      cudaMemcpyHostToDevice, stream),
                    "copying block tables");
}

}  // namespace flexquant::executor
