#ifndef FLEXQUANT_KERNELS_CPU_RESCORING_H_
#define FLEXQUANT_KERNELS_CPU_RESCORING_H_

// Rescoring (common/rescoring.h) over an instruction set's vector type; contracts in kernels.h.

#include <cstdint>

#include "common/nested_matrix.h"
#include "common/rescoring.h"
#include "kernels/kernels.h"

namespace flexquant {

// Vectors whose lanes' maxima are kept: a lane of them is a block of tokens that stands or falls together at first.
inline constexpr int64_t kBlockVectors = 16;

// Steps that a logit lies below the largest; kRescoringSteps for all that are too far, not numbers among them. Beside a
// NaN the largest may have been lost, so a logit may lie above it.
template <class F32>
inline int StepsBelow(float largest, float logit) {
  const float steps = (largest - logit) * kRescoringStepsPerNat;
  const float near = steps < static_cast<float>(kRescoringSteps) ? steps : static_cast<float>(kRescoringSteps);
  return static_cast<int>(near > 0 ? near : 0.0F);
}

// The largest k for which at most `limit` of those counted lie fewer than k steps below the largest.
template <class F32>
inline int MostSteps(const int64_t* counts, int64_t limit) {
  int64_t sum = 0;
  int k = 0;
  while (k < kRescoringSteps && sum + counts[k] <= limit) {
    sum += counts[k++];
  }
  return k;
}

// Writes the lanes' maxima of each block of vectors and returns the largest logit of all, those behind the last block
// included.
template <class F32>
inline float BlockMaxima(const float* logits, int64_t n, float* maxima) {
  F32 largest = F32::Set(logits[0]);
  int64_t i = 0;
  for (; i + kBlockVectors * F32::kLanes <= n; i += kBlockVectors * F32::kLanes) {
    F32 even = F32::Load(logits + i);
    F32 odd = F32::Load(logits + i + F32::kLanes);
    for (int64_t j = 2; j < kBlockVectors; j += 2) {
      even = Max(even, F32::Load(logits + i + j * F32::kLanes));
      odd = Max(odd, F32::Load(logits + i + (j + 1) * F32::kLanes));
    }
    const F32 block = Max(even, odd);
    block.Store(maxima + i / kBlockVectors);
    largest = Max(largest, block);
  }
  float result = ReduceMax(largest);
  for (; i < n; ++i) {
    result = logits[i] > result ? logits[i] : result;
  }
  return result;
}

// Blocks hold at least one token each of those that count, so that with too many blocks there are too many tokens: only
// the tokens of at most `limit` blocks are looked at one by one.
template <class F32>
int64_t Likeliest(const float* logits, int64_t n, int64_t limit, uint32_t* tokens, void* workspace) {
  constexpr int64_t kSpan = kBlockVectors * F32::kLanes;
  const int64_t whole = n / kSpan * kSpan;
  const int64_t blocks = whole / kBlockVectors;
  auto* maxima = static_cast<float*>(workspace);
  auto* candidates = reinterpret_cast<uint32_t*>(maxima + blocks);
  const float largest = BlockMaxima<F32>(logits, n, maxima);

  int64_t counts[kRescoringSteps + 1] = {};
  for (int64_t block = 0; block < blocks; ++block) {
    ++counts[StepsBelow<F32>(largest, maxima[block])];
  }
  const int most = MostSteps<F32>(counts, limit);

  int64_t token_counts[kRescoringSteps + 1] = {};
  int64_t num_candidates = 0;
  const auto look = [&](int64_t token) {
    const int steps = StepsBelow<F32>(largest, logits[token]);
    ++token_counts[steps];
    candidates[num_candidates] = static_cast<uint32_t>(token);
    num_candidates += steps < most ? 1 : 0;
  };
  for (int64_t block = 0; block < blocks; ++block) {
    if (StepsBelow<F32>(largest, maxima[block]) < most) {
      const int64_t first = block / F32::kLanes * kSpan + block % F32::kLanes;
      for (int64_t j = 0; j < kBlockVectors; ++j) {
        look(first + j * F32::kLanes);
      }
    }
  }
  for (int64_t token = whole; token < n; ++token) {
    look(token);
  }
  const int steps_in_all = MostSteps<F32>(token_counts, limit);
  const int steps = steps_in_all < most ? steps_in_all : most;
  int64_t count = 0;
  for (int64_t i = 0; i < num_candidates; ++i) {
    if (StepsBelow<F32>(largest, logits[candidates[i]]) < steps) {
      tokens[count++] = candidates[i];
    }
  }
  return count;
}

template <class F32>
float DotCodes(const uint8_t* codes, const float* scales, const float* x, int64_t cols, int64_t group_size) {
  F32 sums[2] = {F32::Set(0.0F), F32::Set(0.0F)};
  for (int64_t begin = 0; begin < cols; begin += group_size) {
    const int64_t end = cols - begin < group_size ? cols : begin + group_size;
    const F32 zero = F32::Set(scales[1]);
    F32 even = F32::Set(0.0F);
    F32 odd = F32::Set(0.0F);
    int64_t k = begin;
    for (; k + 2 * F32::kLanes <= end; k += 2 * F32::kLanes) {
      even = Fma(F32::LoadBytes(codes + k) - zero, F32::Load(x + k), even);
      odd = Fma(F32::LoadBytes(codes + k + F32::kLanes) - zero, F32::Load(x + k + F32::kLanes), odd);
    }
    for (; k < end; k += F32::kLanes) {
      // Codes are padded; what is behind the inputs is 0.
      even = Fma(F32::LoadBytes(codes + k) - zero, F32::LoadN(x + k, end - k), even);
    }
    const F32 scale = F32::Set(scales[0]);
    sums[0] = Fma(even, scale, sums[0]);
    sums[1] = Fma(odd, scale, sums[1]);
    scales += 2;
  }
  return ReduceAdd(sums[0] + sums[1]);
}

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_RESCORING_H_
