#ifndef FLEXQUANT_KERNELS_CPU_VNNI256_H_
#define FLEXQUANT_KERNELS_CPU_VNNI256_H_

// vpdpbusd on 256 bits for nested_gemm_dot.h, in the encoding that the including file is compiled for: VEX (AVX-VNNI)
// or EVEX (AVX-512 VNNI and VL). `Tag` keeps the two apart; so F32 is not the one of vec_avx2.h.

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/bytes_256.h"

namespace flexquant {

template <class Tag>
struct Vnni256 {
  struct F32 {
    static constexpr int64_t kLanes = 8;
    __m256 v;

    static F32 Set(float x) { return {_mm256_set1_ps(x)}; }
    static F32 Load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static F32 LoadHalf(const uint16_t* p) {
      return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
    }
    void Store(float* p) const { _mm256_storeu_ps(p, v); }
    friend F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
    friend F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
    friend F32 FusedFma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  };
  using Sums = __m256i;
  static constexpr int32_t kCodeBias = 0;

  using Bytes = Bytes256<Tag>;

  static Sums Zero() { return _mm256_setzero_si256(); }
  static Bytes Operand(Bytes codes) { return codes; }
  static Bytes Broadcast(const int8_t* four) {
    int32_t quad;
    __builtin_memcpy(&quad, four, sizeof(quad));
    return {_mm256_set1_epi32(quad)};
  }
  static Sums Dot(Sums sums, Bytes operand, Bytes four) {
#if defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(sums, operand.v, four.v);
#else
    return _mm256_dpbusd_epi32(sums, operand.v, four.v);
#endif
  }
  static Sums Pair(Sums coarse, Sums fine) { return _mm256_add_epi32(_mm256_slli_epi32(coarse, 7), fine); }
  static Sums AddToEach(Sums sums, int32_t value) { return _mm256_add_epi32(sums, _mm256_set1_epi32(value)); }
  static F32 ToFloat(Sums sums) { return {_mm256_cvtepi32_ps(sums)}; }
};

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_VNNI256_H_
