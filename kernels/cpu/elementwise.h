#ifndef FLEXQUANT_KERNELS_CPU_ELEMENTWISE_H_
#define FLEXQUANT_KERNELS_CPU_ELEMENTWISE_H_

// Elementwise kernels over an instruction set's vector type (see vec_portable.h); contracts in kernels.h.

#include <cstdint>

#include "common/nested_matrix.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/tables.h"

namespace flexquant {

// Calls whole(i) for every full vector of [0, n), then rest(i, count) for the remainder.
template <class F32, class Whole, class Rest>
inline void ForEachVector(int64_t n, Whole whole, Rest rest) {
  int64_t i = 0;
  for (; i + F32::kLanes <= n; i += F32::kLanes) {
    whole(i);
  }
  if (i < n) {
    rest(i, n - i);
  }
}

template <class F32>
inline float QuantizationStep(const float* x, int64_t n) {
  F32 max = F32::Set(0.0F);
  ForEachVector<F32>(
      n, [&](int64_t i) { max = Max(max, Abs(F32::Load(x + i))); },
      [&](int64_t i, int64_t count) { max = Max(max, Abs(F32::LoadN(x + i, count))); });
  return ReduceMax(max) / 127.0F;
}

// v / step to the nearest even integer, given 1 / step: the quotient from the inverse, and once more from what that
// leaves, which rounds like a division and is quicker.
template <class F32>
inline F32 RoundToStep(F32 v, F32 step, F32 inverse) {
  const F32 round = F32::Set(12582912.0F);
  const F32 zero = F32::Set(0.0F);
  const F32 q = v * inverse;
  return (FusedFma(FusedFma(zero - q, step, v), inverse, q) + round) - round;
}

// x [n] of one group in one row of int8, or, if kPairs, in two, the second at `rest`. A group whose step is tiny counts
// as zeros, so that inverses and 128ths of steps are normal numbers.
template <class F32, bool kPairs>
inline void QuantizeGroup(const float* x, int64_t n, int8_t* values, [[maybe_unused]] int8_t* rest, float* scale,
                          float* sum) {
  constexpr float kSmallestStep = 0x1p-100F;
  const float step = QuantizationStep<F32>(x, n);
  *sum = 0.0F;
  if (step < kSmallestStep) {
    *scale = 0.0F;
    __builtin_memset(values, 0, static_cast<size_t>(n));
    if constexpr (kPairs) {
      __builtin_memset(rest, 0, static_cast<size_t>(n));
    }
    return;
  }
  const F32 steps = F32::Set(step);
  const F32 inverse = F32::Set(1.0F / step);
  *scale = kPairs ? step / 128.0F : step;
  F32 total = F32::Set(0.0F);  // of integers, exact
  for (int64_t i = 0; i < n; i += F32::kLanes) {
    const int64_t count = n - i < F32::kLanes ? n - i : F32::kLanes;
    const F32 v = count == F32::kLanes ? F32::Load(x + i) : F32::LoadN(x + i, count);
    F32 q = RoundToStep(v, steps, inverse);
    q.StoreInt8N(values + i, count);
    if constexpr (kPairs) {
      const F32 left = FusedFma(F32::Set(0.0F) - q, steps, v);
      const F32 fine = RoundToStep(left, F32::Set(step / 128.0F), F32::Set(128.0F / step));
      fine.StoreInt8N(rest + i, count);
      q = FusedFma(F32::Set(128.0F), q, fine);
    }
    total = total + q;
  }
  *sum = ReduceAdd(total);
}

template <class F32, bool kPairs>
inline void QuantizeTokens(const float* x, int64_t ldx, int64_t m, int64_t cols, int64_t group_size, int8_t* values,
                           float* scales, float* sums, int64_t group_stride) {
  const int64_t stride = ActivationStride(cols);
  const int64_t groups = (cols + group_size - 1) / group_size;
  for (int64_t t = 0; t < m; ++t) {
    int8_t* row = values + t * kRowsOf<kPairs> * stride;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * group_size;
      const int64_t count = cols - first < group_size ? cols - first : group_size;
      const int64_t at = g * group_stride + t;
      QuantizeGroup<F32, kPairs>(x + t * ldx + first, count, row + first, row + stride + first, scales + at, sums + at);
    }
    for (int r = 0; r < kRowsOf<kPairs>; ++r) {
      __builtin_memset(row + r * stride + cols, 0, static_cast<size_t>(stride - cols));
    }
  }
}

template <class F32>
void QuantizeActivations(const float* x, int64_t ldx, int64_t m, int64_t cols, int64_t group_size, int64_t rows,
                         int8_t* values, float* scales, float* sums, int64_t group_stride) {
  if (rows == 2) {
    QuantizeTokens<F32, true>(x, ldx, m, cols, group_size, values, scales, sums, group_stride);
  } else {
    QuantizeTokens<F32, false>(x, ldx, m, cols, group_size, values, scales, sums, group_stride);
  }
}

template <class F32>
void RmsNorm(const float* x, int64_t ldx, const float* weight, int64_t m, int64_t n, float eps, float* y, int64_t ldy) {
  for (int64_t t = 0; t < m; ++t) {
    const float* in = x + t * ldx;
    float* out = y + t * ldy;
    F32 squares = F32::Set(0.0F);
    ForEachVector<F32>(
        n,
        [&](int64_t i) {
          const F32 v = F32::Load(in + i);
          squares = Fma(v, v, squares);
        },
        [&](int64_t i, int64_t count) {
          const F32 v = F32::LoadN(in + i, count);
          squares = Fma(v, v, squares);
        });
    const F32 inverse = F32::Set(1.0F / __builtin_sqrtf(ReduceAdd(squares) / static_cast<float>(n) + eps));
    ForEachVector<F32>(
        n, [&](int64_t i) { (F32::Load(in + i) * inverse * F32::Load(weight + i)).Store(out + i); },
        [&](int64_t i, int64_t count) {
          (F32::LoadN(in + i, count) * inverse * F32::LoadN(weight + i, count)).StoreN(out + i, count);
        });
  }
}

template <class F32>
void Rope(float* x, int64_t num_heads, int64_t head_dim, const float* cos, const float* sin) {
  const int64_t half = head_dim / 2;
  for (int64_t head = 0; head < num_heads; ++head) {
    float* first = x + head * head_dim;
    float* second = first + half;
    for (int64_t i = 0; i < half; i += F32::kLanes) {
      const int64_t count = half - i < F32::kLanes ? half - i : F32::kLanes;
      const F32 a = F32::LoadN(first + i, count);
      const F32 b = F32::LoadN(second + i, count);
      const F32 c = F32::LoadN(cos + i, count);
      const F32 s = F32::LoadN(sin + i, count);
      (a * c - b * s).StoreN(first + i, count);
      (b * c + a * s).StoreN(second + i, count);
    }
  }
}

template <class F32>
void SiluMul(const float* gate, const float* up, int64_t n, float* out) {
  const F32 one = F32::Set(1.0F);
  const F32 none = F32::Set(0.0F);
  const auto silu_mul = [&](F32 g, F32 u) { return g / (one + Exp(none - g)) * u; };
  ForEachVector<F32>(
      n, [&](int64_t i) { silu_mul(F32::Load(gate + i), F32::Load(up + i)).Store(out + i); },
      [&](int64_t i, int64_t count) {
        silu_mul(F32::LoadN(gate + i, count), F32::LoadN(up + i, count)).StoreN(out + i, count);
      });
}

template <class F32>
void Add(float* x, const float* y, int64_t n) {
  ForEachVector<F32>(
      n, [&](int64_t i) { (F32::Load(x + i) + F32::Load(y + i)).Store(x + i); },
      [&](int64_t i, int64_t count) { (F32::LoadN(x + i, count) + F32::LoadN(y + i, count)).StoreN(x + i, count); });
}

template <class F32>
void StoreValues(const float* src, int64_t num_kv_heads, int64_t head_dim, uint16_t* dst, int64_t head_stride) {
  for (int64_t head = 0; head < num_kv_heads; ++head) {
    const float* from = src + head * head_dim;
    uint16_t* to = dst + head * head_stride;
    ForEachVector<F32>(
        head_dim, [&](int64_t i) { F32::Load(from + i).StoreHalfN(to + i, F32::kLanes); },
        [&](int64_t i, int64_t count) { F32::LoadN(from + i, count).StoreHalfN(to + i, count); });
  }
}

template <class F32>
void StoreKeys(const float* src, int64_t num_kv_heads, int64_t head_dim, uint16_t* dst, int64_t head_stride,
               int64_t block_tokens) {
  for (int64_t head = 0; head < num_kv_heads; ++head) {
    const float* from = src + head * head_dim;
    uint16_t* to = dst + head * head_stride;
    const auto store = [&](const F32& x, int64_t i, int64_t count) {
      uint16_t halves[F32::kLanes];
      x.StoreHalfN(halves, F32::kLanes);
      for (int64_t lane = 0; lane < count; ++lane) {
        to[(i + lane) * block_tokens] = halves[lane];
      }
    };
    ForEachVector<F32>(
        head_dim, [&](int64_t i) { store(F32::Load(from + i), i, F32::kLanes); },
        [&](int64_t i, int64_t count) { store(F32::LoadN(from + i, count), i, count); });
  }
}

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_ELEMENTWISE_H_
