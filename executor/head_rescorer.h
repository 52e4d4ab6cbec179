#ifndef FLEXQUANT_EXECUTOR_HEAD_RESCORER_H_
#define FLEXQUANT_EXECUTOR_HEAD_RESCORER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/nested_matrix.h"
#include "common/thread_pool.h"
#include "executor/memory.h"
#include "executor/row_order.h"
#include "kernels/kernels.h"

namespace flexquant::executor {

// Scores the likeliest tokens of a step's rows again at 8 bits (common/rescoring.h). Planes hold 16 rows next to each
// other, so that one row of them would cost the bytes of sixteen: this keeps the head's rows, of all 8 bits, a second
// time, row after row. Buffers are reserved once; one caller at a time.
class HeadRescorer {
 public:
  HeadRescorer(const CpuKernels& kernels, ThreadPool& pool) : kernels_(kernels), pool_(pool) {}

  // For up to `max_rows` rows of logits a step. `head` holds tokens [first, first + head.rows) of `vocab_size`.
  // RESOURCE_EXHAUSTED if memory is short. Without this call nothing is scored again.
  absl::Status Allocate(const NestedMatrix& head, int64_t first, int64_t vocab_size, int64_t max_rows);

  // Whether a row of the step is scored again.
  bool Wanted(const RowOrder& order) const;
  // Chooses tokens of each row of logits [slots, vocab_size], all of which must be there.
  void Choose(const RowOrder& order, const float* logits);
  // Writes the logits of the chosen tokens that `head` holds. `inputs` [slots, cols] are what the head multiplies.
  // Returns the bytes of weights read, at most.
  uint64_t Rescore(const RowOrder& order, absl::Span<const float> inputs, float* logits);

 private:
  const uint8_t* Row(int64_t row) const { return rows_.as<uint8_t>() + row * stride_; }
  void CopyTile(const NestedMatrix& head, int64_t tile);

  const CpuKernels& kernels_;
  ThreadPool& pool_;
  int64_t cols_ = 0;
  int64_t group_size_ = 0;
  int64_t padded_cols_ = 0;
  int64_t groups_ = 0;
  int64_t first_ = 0;
  int64_t num_rows_ = 0;
  int64_t vocab_size_ = 0;
  int64_t limit_ = 0;
  int64_t stride_ = 0;
  size_t workspace_stride_ = 0;
  std::vector<int64_t> counts_;  // [max_rows] tokens chosen
  LazyBuffer rows_;       // [rows] of stride_ bytes: codes [padded_cols], then scale and zero of each group, fp32
  LazyBuffer tokens_;     // [max_rows, limit]
  LazyBuffer workspace_;  // [threads, workspace_stride_]
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_HEAD_RESCORER_H_
