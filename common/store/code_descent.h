#ifndef FLEXQUANT_COMMON_STORE_CODE_DESCENT_H_
#define FLEXQUANT_COMMON_STORE_CODE_DESCENT_H_

// Error compensation for nested codes. Rounding every weight to its nearest code makes each weight's error small; what
// counts is the error of a row's products, which adds the errors up over inputs that are alike from token to token
// (their mean alone is a sixth to two fifths of their energy). GPTQ (Frantar et al., 2022) and its kin compensate
// weight by weight, for one width. Here the widths share their codes, so codes move by single steps instead, and only
// where the sum over all widths falls: coordinate descent on
//     sum over widths b of omega_b * e_b' M e_b,   e_b = the row's errors at b bits, M = the inputs' second moments,
// with the omegas of FitGroup. A step of one code costs 8 bits little, and near the edge of a narrower width's cell it
// moves the weight to the next cell there.

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/store/input_moments.h"

namespace flexquant {

class CodeDescent {
 public:
  // `moments` must outlive it. Not thread-safe.
  explicit CodeDescent(const InputMoments& moments);

  // Moves the codes of one row. positions [cols]: the weights on the scale of codes (weight / scale + zero); scales
  // [cols]: each weight's scale, 0 = leave alone; codes [cols]: in and out, within 1.5 of the positions at the end
  // unless they were farther away before.
  void Refine(absl::Span<const float> positions, absl::Span<const float> scales, absl::Span<uint8_t> codes);

 private:
  void RefineBlock(int64_t block, const float* positions, const float* scales, uint8_t* codes);
  // The code beside or at `code` under which the sum is least.
  int BestCode(int64_t block, int64_t k, int code, float position, float scale) const;
  // Adds an error of column k at a width to the gradients.
  void AddError(int64_t block, int64_t k, size_t width, float error);

  const InputMoments& moments_;
  std::vector<float> gradients_;  // [widths, columns of a block]: M e_b
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_STORE_CODE_DESCENT_H_
