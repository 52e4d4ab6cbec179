#include "executor/row_order.h"

#include <array>

#include "common/check.h"
#include "common/precision.h"

namespace flexquant::executor {
namespace {

constexpr std::array<int, kPrecisions.size() + 1> kWidths = {3, 4, 5, 6, 8, kReferencePrecision};
constexpr std::array<int, 2> kActivationBits = {8, 15};

}  // namespace

RowOrder::RowOrder(int64_t max_rows)
    : row_of_slot_(static_cast<size_t>(max_rows)),
      slot_of_row_(static_cast<size_t>(max_rows)),
      bits_of_slot_(static_cast<size_t>(max_rows)),
      activation_bits_of_slot_(static_cast<size_t>(max_rows)) {
  runs_.reserve(kWidths.size() * kActivationBits.size());
}

void RowOrder::Build(absl::Span<const Rows> parts) {
  runs_.clear();
  size_ = 0;
  size_t placed = 0;
  for (const int bits : kWidths) {
    for (const int activation_bits : kActivationBits) {
      placed += Place(parts, bits, activation_bits);
    }
  }
  FQ_CHECK(placed == parts.size());
}

size_t RowOrder::Place(absl::Span<const Rows> parts, int bits, int activation_bits) {
  size_t placed = 0;
  const int64_t begin = size_;
  for (const Rows& rows : parts) {
    if (rows.bits != bits || rows.activation_bits != activation_bits) {
      continue;
    }
    ++placed;
    for (int64_t row = rows.first; row < rows.first + rows.count; ++row, ++size_) {
      row_of_slot_[static_cast<size_t>(size_)] = static_cast<int32_t>(row);
      slot_of_row_[static_cast<size_t>(row)] = static_cast<int32_t>(size_);
      bits_of_slot_[static_cast<size_t>(size_)] = static_cast<uint8_t>(bits);
      activation_bits_of_slot_[static_cast<size_t>(size_)] = static_cast<uint8_t>(activation_bits);
    }
  }
  if (size_ > begin) {
    runs_.push_back({bits, activation_bits, begin, size_});
  }
  return placed;
}

}  // namespace flexquant::executor
