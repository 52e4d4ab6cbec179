#ifndef FLEXQUANT_COMMON_STORE_GROUP_FIT_H_
#define FLEXQUANT_COMMON_STORE_GROUP_FIT_H_

#include <array>
#include <cstdint>

#include "absl/types/span.h"

namespace flexquant {

inline constexpr int kMaxCode = 255;

// fp16 scale and zero of one row's group, decoded.
struct GroupFit {
  float scale = 0;  // 0 for a group of zeros, else positive
  float zero = 0;   // magnitude at most 2048, so that fp16 holds it to within one code
  // Sum over precisions and weights of importance * squared error / 4^-precision, 3 and 4 bits twice, up to a constant.
  float cost = 0;
};

// Chooses the pair that serves 3, 4, 5, 6 and 8 bits best together. `weights` has 1 to 128 finite values. Squared
// errors count by `importance`, a finite value >= 0 for each weight; empty = all alike. A range above 255 * 65504
// saturates the scale and is clipped; one below 255 * 2^-24 gets the smallest half, 2^-24.
//
// A separate pair for each precision would cost 0.25 bits a weight each at groups of 128, above the budget of 8.5 for
// all precisions, so one pair is searched: ranges up to 8 % wider than the weights' and shifts inside them, by the sum
// of the precisions' squared errors, each relative to its step, 3 and 4 bits counted twice. Over the plain range
// (minimum to maximum) in groups of 128 that lowers the relative L2 error at 4 bits by 2 % (normal, Laplace) to 6 %
// (SmolLM2), at 5 and 6 bits by 3 to 6 % and at 8 bits by 2 to 5 %, and leaves 3 bits; in groups of 32 it lowers it at
// 3 bits by 5 % and at 4 bits by 9 %. Nothing gets worse.
GroupFit FitGroup(absl::Span<const float> weights, absl::Span<const float> importance = {});

// A width as a part of nested codes: its bits, the middle of what they leave out, and how much its squared error counts
// (in units of the step of the width, 4^bits; 3 and 4 bits twice).
struct NestedWidth {
  int mask;
  float mid;
  float weight;
};
inline constexpr std::array<NestedWidth, 5> kNestedWidths = {
    {{0xE0, 15.5F, 128}, {0xF0, 7.5F, 512}, {0xF8, 3.5F, 1024}, {0xFC, 1.5F, 4096}, {0xFF, 0, 65536}}};

// Nearest code to a position on the scale of codes. Clips as an integer: compilers put that in vector lanes.
inline int CodeAt(float position) {
  const int code = static_cast<int>(position + 0.5F);
  const int not_above = code < kMaxCode ? code : kMaxCode;
  return not_above > 0 ? not_above : 0;
}

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_STORE_GROUP_FIT_H_
