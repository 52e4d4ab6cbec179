#include "executor/cpu_linear.h"

#include <algorithm>
#include <utility>

#include "common/status_macros.h"
#include "executor/for_rows.h"

namespace flexquant::executor {
namespace {

constexpr size_t kCacheLine = 64;
// Tokens of 15-bit activations whose pairs of products wait for their addition at a time: few, since all of a prompt's
// would leave the caches meanwhile (a third of its time), and as many as kernels go through together.
constexpr int64_t kPairTokens = 48;

}  // namespace

absl::Status CpuLinear::Allocate(const ModelStore& store, int64_t max_rows) {
  max_rows_ = max_rows;
  int64_t cols = 0;
  int64_t padded_cols = 0;
  int64_t groups = 0;
  int64_t outputs = 0;
  size_t workspace = 0;
  for (int group = 0; group < store.num_layer_groups(); ++group) {
    const NestedMatrix& w = store.layer_group(group);
    cols = std::max(cols, w.cols);
    padded_cols = std::max(padded_cols, w.units() * kUnitCols);
    groups = std::max(groups, w.groups());
    workspace = std::max(workspace, NestedGemmWorkspaceBytes(w));
    outputs = std::max(outputs, w.rows);
  }
  workspace_bytes_ = (workspace + kCacheLine - 1) / kCacheLine * kCacheLine;
  const auto rows = static_cast<uint64_t>(max_rows);
  const std::pair<LazyBuffer*, uint64_t> buffers[] = {
      {&input_, rows * static_cast<uint64_t>(cols) * sizeof(float)},
      {&values_, 3 * rows * static_cast<uint64_t>(padded_cols)},
      {&scales_, 3 * rows * static_cast<uint64_t>(groups) * sizeof(float)},
      {&sums_, 3 * rows * static_cast<uint64_t>(groups) * sizeof(int32_t)},
      {&pairs_, 2 * kPairTokens * static_cast<uint64_t>(outputs) * sizeof(float)},
      {&workspace_, static_cast<uint64_t>(pool_.num_threads()) * workspace_bytes_},
  };
  for (const auto& [buffer, bytes] : buffers) {
    FQ_ASSIGN_OR_RETURN(*buffer, LazyBuffer::Allocate(bytes, "activations"));
  }
  return absl::OkStatus();
}

void CpuLinear::Prepare(const NestedMatrix& w, const RowOrder& order, absl::FunctionRef<void(int64_t, float*)> fill) {
  const int64_t padded = w.units() * kUnitCols;
  const int64_t groups = w.groups();
  ForRows(pool_, order.size(), w.cols, [&](int64_t slot) {
    float* input = input_.as<float>() + slot * w.cols;
    fill(order.row(slot), input);
    if (order.bits(slot) == kReferencePrecision) {
      return;
    }
    const int activation_bits = order.activation_bits(slot);
    const int64_t at = QuantizedRow(slot, activation_bits);
    int8_t* values = values_.as<int8_t>() + at * padded;
    float* scales = scales_.as<float>() + at * groups;
    int32_t* sums = sums_.as<int32_t>() + at * groups;
    if (activation_bits == 8) {
      kernels_.quantize_activations(input, w.cols, 1, w.cols, w.group_size, values, scales, sums);
    } else {
      kernels_.quantize_activations_15(input, w.cols, w.group_size, values, scales, sums);
    }
  });
}

uint64_t CpuLinear::Multiply(const NestedMatrix& w, const RowOrder& order, float* y, int64_t stride,
                             absl::FunctionRef<void(int64_t, int64_t)> finish) {
  const int64_t chunk = ProductChunk(w, pool_.num_threads());
  const auto multiply = [&](int64_t begin, int64_t end, int thread) {
    void* workspace = workspace_.as<uint8_t>() + static_cast<size_t>(thread) * workspace_bytes_;
    for (const RowOrder::Run& run : order.runs()) {
      MultiplyRun(w, run, y, stride, begin, end, workspace);
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

QuantizedActivations CpuLinear::Quantized(const NestedMatrix& w, int64_t first, int64_t count) const {
  QuantizedActivations a;
  a.m = count;
  a.cols = w.cols;
  a.group_size = w.group_size;
  a.values = values_.as<int8_t>() + first * w.units() * kUnitCols;
  a.scales = scales_.as<float>() + first * w.groups();
  a.sums = sums_.as<int32_t>() + first * w.groups();
  return a;
}

void CpuLinear::MultiplyRun(const NestedMatrix& w, const RowOrder::Run& run, float* y, int64_t stride,
                            int64_t tile_begin, int64_t tile_end, void* workspace) {
  const int64_t count = run.end - run.begin;
  const int64_t row_begin = tile_begin * kTileRows;
  const int64_t row_end = std::min(w.rows, tile_end * kTileRows);
  float* out = y + run.begin * stride;
  if (run.bits == kReferencePrecision) {
    kernels_.reference_gemm(w, input_.as<float>() + run.begin * w.cols, w.cols, count, row_begin, row_end, out, stride);
    return;
  }
  const int64_t first = QuantizedRow(run.begin, run.activation_bits);
  if (run.activation_bits == 8) {
    kernels_.nested_gemm(w, run.bits, Quantized(w, first, count), tile_begin, tile_end, out, stride, workspace);
    return;
  }
  if (kernels_.nested_gemm_15 != nullptr) {
    kernels_.nested_gemm_15(w, run.bits, Quantized(w, first, 2 * count), tile_begin, tile_end, out, stride, workspace);
    return;
  }
  float* const pairs = pairs_.as<float>();
  for (int64_t begin = 0; begin < count; begin += kPairTokens) {
    const int64_t tokens = std::min(kPairTokens, count - begin);
    kernels_.nested_gemm(w, run.bits, Quantized(w, first + 2 * begin, 2 * tokens), tile_begin, tile_end, pairs, w.rows,
                         workspace);
    for (int64_t i = 0; i < tokens; ++i) {
      const float* coarse = pairs + 2 * i * w.rows;
      const float* rest = coarse + w.rows;
      for (int64_t n = row_begin; n < row_end; ++n) {
        out[(begin + i) * stride + n] = coarse[n] + rest[n];
      }
    }
  }
}

}  // namespace flexquant::executor
