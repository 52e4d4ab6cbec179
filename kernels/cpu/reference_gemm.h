#ifndef FLEXQUANT_KERNELS_CPU_REFERENCE_GEMM_H_
#define FLEXQUANT_KERNELS_CPU_REFERENCE_GEMM_H_

#include <cstdint>

#include "common/nested_matrix.h"

namespace flexquant {

inline constexpr int kReferenceRows = 4;
inline constexpr int kReferenceTokens = 4;

template <class F32, bool kBf16>
struct ReferenceWeights {
  static F32 Load(const void* weights, int64_t at) {
    if constexpr (kBf16) {
      return F32::LoadBf16(static_cast<const uint16_t*>(weights) + at);
    } else {
      return F32::Load(static_cast<const float*>(weights) + at);
    }
  }
  static F32 LoadN(const void* weights, int64_t at, int64_t n) {
    if constexpr (kBf16) {
      return F32::LoadBf16N(static_cast<const uint16_t*>(weights) + at, n);
    } else {
      return F32::LoadN(static_cast<const float*>(weights) + at, n);
    }
  }
};

// An output is one chain of vector multiply-adds along K and one reduction, whatever the block it is in.
template <class F32, bool kBf16, int kRows, int kTokens>
inline void ReferenceBlock(const NestedMatrix& w, int64_t row, const float* x, int64_t ldx, float* y, int64_t ldy) {
  using Weights = ReferenceWeights<F32, kBf16>;
  F32 sums[kRows][kTokens];
  for (auto& row_sums : sums) {
    for (F32& sum : row_sums) {
      sum = F32::Set(0.0F);
    }
  }
  const int64_t cols = w.cols;
  int64_t k = 0;
  for (; k + F32::kLanes <= cols; k += F32::kLanes) {
    F32 tokens[kTokens];
    for (int t = 0; t < kTokens; ++t) {
      tokens[t] = F32::Load(x + t * ldx + k);
    }
    for (int r = 0; r < kRows; ++r) {
      const F32 weights = Weights::Load(w.reference, (row + r) * cols + k);
      for (int t = 0; t < kTokens; ++t) {
        sums[r][t] = Fma(weights, tokens[t], sums[r][t]);
      }
    }
  }
  if (k < cols) {
    for (int r = 0; r < kRows; ++r) {
      const F32 weights = Weights::LoadN(w.reference, (row + r) * cols + k, cols - k);
      for (int t = 0; t < kTokens; ++t) {
        sums[r][t] = Fma(weights, F32::LoadN(x + t * ldx + k, cols - k), sums[r][t]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) {
      y[t * ldy + row + r] = ReduceAdd(sums[r][t]);
    }
  }
}

template <class F32, bool kBf16, int kRows>
inline void ReferenceRows(const NestedMatrix& w, int64_t row, const float* x, int64_t ldx, int64_t m, float* y,
                          int64_t ldy) {
  int64_t t = 0;
  for (; t + kReferenceTokens <= m; t += kReferenceTokens) {
    ReferenceBlock<F32, kBf16, kRows, kReferenceTokens>(w, row, x + t * ldx, ldx, y + t * ldy, ldy);
  }
  for (; t < m; ++t) {
    ReferenceBlock<F32, kBf16, kRows, 1>(w, row, x + t * ldx, ldx, y + t * ldy, ldy);
  }
}

template <class F32, bool kBf16>
void ReferenceGemmOf(const NestedMatrix& w, const float* x, int64_t ldx, int64_t m, int64_t row_begin, int64_t row_end,
                     float* y, int64_t ldy) {
  int64_t row = row_begin;
  for (; row + kReferenceRows <= row_end; row += kReferenceRows) {
    ReferenceRows<F32, kBf16, kReferenceRows>(w, row, x, ldx, m, y, ldy);
  }
  for (; row < row_end; ++row) {
    ReferenceRows<F32, kBf16, 1>(w, row, x, ldx, m, y, ldy);
  }
}

template <class F32>
void ReferenceGemm(const NestedMatrix& w, const float* x, int64_t ldx, int64_t m, int64_t row_begin, int64_t row_end,
                   float* y, int64_t ldy) {
  if (w.reference_dtype == Dtype::kBF16) {
    ReferenceGemmOf<F32, true>(w, x, ldx, m, row_begin, row_end, y, ldy);
  } else {
    ReferenceGemmOf<F32, false>(w, x, ldx, m, row_begin, row_end, y, ldy);
  }
}

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_REFERENCE_GEMM_H_
