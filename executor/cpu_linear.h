#ifndef FLEXQUANT_EXECUTOR_CPU_LINEAR_H_
#define FLEXQUANT_EXECUTOR_CPU_LINEAR_H_

#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/nested_matrix.h"
#include "common/precision.h"
#include "common/store/model_store.h"
#include "common/thread_pool.h"
#include "executor/fetch_ahead.h"
#include "executor/memory.h"
#include "executor/row_order.h"
#include "kernels/kernels.h"

namespace flexquant::executor {

// The products of a layer group for the rows of a step, each row at its own width. Prepare, then Multiply the same
// matrix with the same order. Buffers are reserved once; one caller at a time.
class CpuLinear {
 public:
  CpuLinear(const CpuKernels& kernels, ThreadPool& pool, const FetchAhead& ahead)
      : kernels_(kernels), pool_(pool), ahead_(ahead) {}

  // Room for the layer groups of `store` and `max_rows` rows a step. RESOURCE_EXHAUSTED if memory is short.
  absl::Status Allocate(const ModelStore& store, int64_t max_rows);

  // fill(row, destination) writes a row's fp32 input [w.cols]; it is quantised to the bits that the order says.
  void Prepare(const NestedMatrix& w, const RowOrder& order, absl::FunctionRef<void(int64_t, float*)> fill);

  // What Prepare wrote last, in the order of slots [slots, w.cols].
  absl::Span<const float> Inputs(const NestedMatrix& w, const RowOrder& order) const {
    return {input_.as<float>(), static_cast<size_t>(order.size() * w.cols)};
  }

  // y [slots, w.rows], rows `stride` floats apart, = inputs times w. finish(begin, end) follows for ranges of output
  // rows once they are in y; ranges are disjoint, calls concurrent. Returns the bytes of weights read.
  uint64_t Multiply(const NestedMatrix& w, const RowOrder& order, float* y, int64_t stride,
                    absl::FunctionRef<void(int64_t, int64_t)> finish);

 private:
  // Where a slot's quantised input is: 8-bit activations are in front, behind them those of 15 bits.
  struct Place {
    int64_t rows;   // as in QuantizedActivations
    int64_t row;    // of values_, the first if two
    int64_t scale;  // index of the first group's in scales_ and sums_; groups are order.size() apart
  };
  Place PlaceOf(const NestedMatrix& w, const RowOrder& order, int64_t slot) const;
  void MultiplyRun(const NestedMatrix& w, const RowOrder& order, const RowOrder::Run& run, float* y, int64_t stride,
                   int64_t tile_begin, int64_t tile_end, void* workspace);

  const CpuKernels& kernels_;
  ThreadPool& pool_;
  const FetchAhead& ahead_;
  int64_t max_rows_ = 0;
  size_t workspace_stride_ = 0;
  LazyBuffer input_;      // [rows, cols] fp32
  LazyBuffer values_;     // [3 * rows, ActivationStride] int8
  LazyBuffer scales_;     // [2, groups, slots]
  LazyBuffer sums_;       // [2, groups, slots]
  LazyBuffer workspace_;  // [threads, workspace_stride_]
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CPU_LINEAR_H_
