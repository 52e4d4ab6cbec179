#ifndef FLEXQUANT_COMMON_STORE_INPUT_MOMENTS_H_
#define FLEXQUANT_COMMON_STORE_INPUT_MOMENTS_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/nested_matrix.h"

namespace flexquant {

// Means over tokens of the products x_j x_k of a layer group's inputs, for columns of one block: blocks lie along the
// diagonal, since whole matrices would grow with the square of the columns.
class InputMoments {
 public:
  // Columns of a block, at most.
  static constexpr int64_t kMaxBlock = 768;

  InputMoments() = default;
  explicit InputMoments(int64_t cols)
      : cols_(cols),
        block_(CeilDiv(cols, CeilDiv(cols, kMaxBlock))),
        values_(static_cast<size_t>(CeilDiv(cols, block_) * block_ * block_)) {}

  bool operator==(const InputMoments&) const = default;
  int64_t cols() const { return cols_; }
  int64_t num_blocks() const { return CeilDiv(cols_, block_); }
  int64_t begin(int64_t block) const { return block * block_; }
  int64_t size(int64_t block) const { return std::min(block_, cols_ - begin(block)); }
  // Row `j` of a block, [size(block)].
  float* row(int64_t block, int64_t j) { return values_.data() + (block * block_ + j) * block_; }
  const float* row(int64_t block, int64_t j) const { return values_.data() + (block * block_ + j) * block_; }
  void Scale(float factor) {
    for (float& value : values_) {
      value *= factor;
    }
  }

 private:
  int64_t cols_ = 0;
  int64_t block_ = 1;
  std::vector<float> values_;  // [blocks, block, block]
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_STORE_INPUT_MOMENTS_H_
