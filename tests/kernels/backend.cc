#include "tests/kernels/backend.h"

#include <algorithm>

namespace flexquant::testing {

std::vector<float> GuardedRows::Take() const {
  std::vector<float> outputs;
  const auto all_rows = static_cast<int64_t>(values_.size()) / std::max<int64_t>(1, stride_);
  for (int64_t row = 0; row < all_rows; ++row) {
    for (int64_t col = 0; col < stride_; ++col) {
      const float value = values_[static_cast<size_t>(row * stride_ + col)];
      if (row < rows_ && col < cols_) {
        outputs.push_back(value);
      } else if (value != kUntouched) {
        ADD_FAILURE() << "written outside of the outputs: row " << row << " column " << col << " of " << rows_ << " x "
                      << cols_;
        return outputs;
      }
    }
  }
  return outputs;
}

}  // namespace flexquant::testing
