#include "executor/cpu_linear.h"

#include <algorithm>
#include <utility>

#include "common/status_macros.h"
#include "executor/for_rows.h"

namespace flexquant::executor {

absl::Status CpuLinear::Allocate(const ModelStore& store, int64_t max_rows) {
  max_rows_ = max_rows;
  int64_t cols = 0;
  int64_t stride = 0;
  int64_t groups = 0;
  size_t workspace = 0;
  for (int group = 0; group < store.num_layer_groups(); ++group) {
    const NestedMatrix& w = store.layer_group(group);
    cols = std::max(cols, w.cols);
    stride = std::max(stride, ActivationStride(w.cols));
    groups = std::max(groups, w.groups());
    workspace = std::max(workspace, NestedGemmWorkspaceBytes(w));
  }
  workspace_stride_ = ThreadStride(workspace);
  const auto rows = static_cast<uint64_t>(max_rows);
  const std::pair<LazyBuffer*, uint64_t> buffers[] = {
      {&input_, rows * static_cast<uint64_t>(cols) * sizeof(float)},
      {&values_, 3 * rows * static_cast<uint64_t>(stride)},
      {&scales_, 2 * rows * static_cast<uint64_t>(groups) * sizeof(float)},
      {&sums_, 2 * rows * static_cast<uint64_t>(groups) * sizeof(float)},
      {&workspace_, static_cast<uint64_t>(pool_.num_threads()) * workspace_stride_},
  };
  for (const auto& [buffer, bytes] : buffers) {
    FQ_ASSIGN_OR_RETURN(*buffer, LazyBuffer::Allocate(bytes, "activations"));
  }
  return absl::OkStatus();
}

void CpuLinear::Prepare(const NestedMatrix& w, const RowOrder& order, absl::FunctionRef<void(int64_t, float*)> fill) {
  ForRows(pool_, order.size(), w.cols, [&](int64_t slot) {
    float* input = input_.as<float>() + slot * w.cols;
    fill(order.row(slot), input);
    if (order.bits(slot) == kReferencePrecision) {
      return;
    }
    const Place place = PlaceOf(w, order, slot);
    kernels_.quantize_activations(input, w.cols, 1, w.cols, w.group_size, place.rows,
                                  values_.as<int8_t>() + place.row * ActivationStride(w.cols),
                                  scales_.as<float>() + place.scale, sums_.as<float>() + place.scale, order.size());
  });
}

CpuLinear::Place CpuLinear::PlaceOf(const NestedMatrix& w, const RowOrder& order, int64_t slot) const {
  if (order.activation_bits(slot) == 8) {
    return {1, slot, slot};
  }
  return {2, max_rows_ + 2 * slot, w.groups() * order.size() + slot};
}

uint64_t CpuLinear::Multiply(const NestedMatrix& w, const RowOrder& order, float* y, int64_t stride,
                             absl::FunctionRef<void(int64_t, int64_t)> finish) {
  const int64_t chunk = ProductChunk(w, pool_.num_threads());
  const auto multiply = [&](int64_t begin, int64_t end, int thread) {
    void* workspace = workspace_.as<uint8_t>() + static_cast<size_t>(thread) * workspace_stride_;
    for (const RowOrder::Run& run : order.runs()) {
      MultiplyRun(w, order, run, y, stride, begin, end, workspace);
    }
    finish(begin * kTileRows, std::min(w.rows, end * kTileRows));
    if (end == pool_.ShareBegin(w.tiles(), chunk, thread + 1)) {
      ahead_.FetchFirst(thread);
    }
  };
  pool_.ParallelChunks(w.tiles(), chunk, multiply);
  uint64_t bytes_read = 0;
  int last_bits = 0;  // runs of one width read the same planes
  for (const RowOrder::Run& run : order.runs()) {
    bytes_read += run.bits != last_bits ? w.BytesRead(run.bits) : 0;
    last_bits = run.bits;
  }
  return bytes_read;
}

void CpuLinear::MultiplyRun(const NestedMatrix& w, const RowOrder& order, const RowOrder::Run& run, float* y,
                            int64_t stride, int64_t tile_begin, int64_t tile_end, void* workspace) {
  const int64_t count = run.end - run.begin;
  const int64_t row_begin = tile_begin * kTileRows;
  const int64_t row_end = std::min(w.rows, tile_end * kTileRows);
  float* out = y + run.begin * stride;
  if (run.bits == kReferencePrecision) {
    kernels_.reference_gemm(w, input_.as<float>() + run.begin * w.cols, w.cols, count, row_begin, row_end, out, stride);
    return;
  }
  const Place place = PlaceOf(w, order, run.begin);
  QuantizedActivations a;
  a.m = count;
  a.cols = w.cols;
  a.group_size = w.group_size;
  a.rows = place.rows;
  a.values = values_.as<int8_t>() + place.row * ActivationStride(w.cols);
  a.scales = scales_.as<float>() + place.scale;
  a.sums = sums_.as<float>() + place.scale;
  a.group_stride = order.size();
  kernels_.nested_gemm(w, run.bits, a, tile_begin, tile_end, out, stride, workspace);
}

}  // namespace flexquant::executor
