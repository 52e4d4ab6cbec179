#ifndef FLEXQUANT_EXECUTOR_ROW_ORDER_H_
#define FLEXQUANT_EXECUTOR_ROW_ORDER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace flexquant::executor {

// Where each token row of a step lies in the matrix products of one layer group: rows are laid out by width and bits of
// their activations, so that each kind is one product over adjacent slots; a sequence's rows of one kind stay adjacent
// and in order. Not thread-safe.
class RowOrder {
 public:
  // Adjacent rows of one sequence.
  struct Rows {
    int bits = 0;
    int activation_bits = 0;  // 8 or 15 (common/precision.h)
    int64_t first = 0;
    int64_t count = 0;
  };
  // Slots [begin, end) of one kind.
  struct Run {
    int bits = 0;
    int activation_bits = 0;
    int64_t begin = 0;
    int64_t end = 0;
  };

  explicit RowOrder(int64_t max_rows);

  // Never allocates. Rows do not overlap and are < max_rows; bits is a precision or 16,
  // activation_bits 8 or 15 (without a meaning for 16 bits).
  void Build(absl::Span<const Rows> parts);

  int64_t size() const { return size_; }
  absl::Span<const Run> runs() const { return runs_; }
  int64_t row(int64_t slot) const { return row_of_slot_[static_cast<size_t>(slot)]; }
  // Only for rows of the last Build.
  int64_t slot(int64_t row) const { return slot_of_row_[static_cast<size_t>(row)]; }
  int bits(int64_t slot) const { return bits_of_slot_[static_cast<size_t>(slot)]; }
  int activation_bits(int64_t slot) const { return activation_bits_of_slot_[static_cast<size_t>(slot)]; }

 private:
  // Lays out the parts of a kind; returns how many.
  size_t Place(absl::Span<const Rows> parts, int bits, int activation_bits);

  int64_t size_ = 0;
  std::vector<Run> runs_;
  std::vector<int32_t> row_of_slot_;
  std::vector<int32_t> slot_of_row_;
  std::vector<uint8_t> bits_of_slot_;
  std::vector<uint8_t> activation_bits_of_slot_;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_ROW_ORDER_H_
