#ifndef FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_MATRIX_SHARE_H_
#define FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_MATRIX_SHARE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/nested_matrix.h"
#include "executor/memory.h"
#include "executor/tensor_parallel/shard.h"

namespace flexquant::executor {

// Some rows and columns of a nested matrix, copied: codes, scales and reference are those of the whole. Move-only.
class MatrixShare {
 public:
  // The rows of `rows`, range after range, of columns `cols`, which begin at a multiple of the group size.
  // RESOURCE_EXHAUSTED if memory is short.
  static absl::StatusOr<MatrixShare> Copy(const NestedMatrix& whole, absl::Span<const Range> rows, Range cols);

  // Lives as long as this.
  const NestedMatrix& matrix() const { return matrix_; }
  uint64_t bytes() const { return memory_.bytes(); }

 private:
  LazyBuffer memory_;
  NestedMatrix matrix_;
};

// View of `rows`, which begin at a multiple of kTileRows: nothing is copied.
NestedMatrix RowsOf(const NestedMatrix& whole, Range rows);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_MATRIX_SHARE_H_
