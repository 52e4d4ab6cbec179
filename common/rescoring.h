#ifndef FLEXQUANT_COMMON_RESCORING_H_
#define FLEXQUANT_COMMON_RESCORING_H_

// Rescoring: a head below 8 bits scores every token, then scores the likeliest ones again at 8 bits, each from its own
// row. KL(8 bits || b bits) of a head lies in the tokens that have probability, a hundredth of the vocabulary, which
// only the token at hand tells: so a few rows at 8 bits buy what two more bits of all rows buy (docs/quality.md).
// Two-stage search with quantised vectors does the same under this name.
//
// Rescored are the tokens whose logit lies less than k / 16 nats below the largest one, k the largest number up to 128
// for which they are at most RescoredRows: (largest - logit) * 16, in fp32, truncated, is below k.

#include <algorithm>
#include <cstdint>

#include "common/nested_matrix.h"

namespace flexquant {

inline constexpr int kRescoringSteps = 128;
inline constexpr float kRescoringStepsPerNat = 16.0F;
// kTopPrecision, which kernels cannot include.
inline constexpr int kRescoredBits = 8;

// Rows of a head that are scored again at most, for a vocabulary of the whole model.
constexpr int64_t RescoredRows(int64_t vocab_size) { return std::min<int64_t>(512, vocab_size / 64); }

constexpr bool IsRescored(int head_bits) { return head_bits < kRescoredBits; }

// Bytes of the rows that are scored again for one token, at most.
constexpr int64_t RescoredBytes(int64_t vocab_size, int64_t hidden_size, int64_t group_size) {
  const int64_t groups = CeilDiv(hidden_size, group_size);
  return RescoredRows(vocab_size) * (CeilDiv(hidden_size, kUnitCols) * kUnitCols + groups * 2 * int64_t{sizeof(float)});
}

// Of `tokens` tokens, for the `rows` tokens of the vocabulary that one rank's head has.
constexpr uint64_t RescoredShareBytes(int64_t tokens, int64_t rows, int64_t vocab_size, int64_t hidden_size,
                                      int64_t group_size) {
  return static_cast<uint64_t>(CeilDiv(tokens * RescoredBytes(vocab_size, hidden_size, group_size) * rows, vocab_size));
}

// Bytes that a pass of one token at `bits` reads of a whole model's head, rows that are scored again included.
inline uint64_t HeadBytesRead(const NestedMatrix& head, int bits) {
  const int64_t again = IsRescored(bits) ? RescoredBytes(head.rows, head.cols, head.group_size) : 0;
  return head.BytesRead(bits) + static_cast<uint64_t>(again);
}

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_RESCORING_H_
