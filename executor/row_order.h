#ifndef FLEXQUANT_EXECUTOR_ROW_ORDER_H_
#define FLEXQUANT_EXECUTOR_ROW_ORDER_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace flexquant::executor {

// Where each token row of a step lies in the matrix products of one layer group: rows are laid out by width, so that
// each width is one product over adjacent slots; the rows of one sequence stay adjacent and in order. Not thread-safe.
class RowOrder {
 public:
  // Adjacent rows of one sequence.
  struct Rows {
    int bits = 0;
    int64_t first = 0;
    int64_t count = 0;
  };
  // Slots [begin, end) of one width.
  struct Run {
    int bits = 0;
    int64_t begin = 0;
    int64_t end = 0;
  };

  explicit RowOrder(int64_t max_rows);

  // Never allocates. Rows of different sequences do not overlap and are < max_rows; bits is a precision or 16.
  void Build(absl::Span<const Rows> sequences);

  int64_t size() const { return size_; }
  absl::Span<const Run> runs() const { return runs_; }
  int64_t row(int64_t slot) const { return row_of_slot_[static_cast<size_t>(slot)]; }
  // Only for rows of the last Build.
  int64_t slot(int64_t row) const { return slot_of_row_[static_cast<size_t>(row)]; }
  int bits(int64_t slot) const { return bits_of_slot_[static_cast<size_t>(slot)]; }

 private:
  int64_t size_ = 0;
  std::vector<Run> runs_;
  std::vector<int32_t> row_of_slot_;
  std::vector<int32_t> slot_of_row_;
  std::vector<uint8_t> bits_of_slot_;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_ROW_ORDER_H_
