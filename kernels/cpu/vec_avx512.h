#ifndef FLEXQUANT_KERNELS_CPU_VEC_AVX512_H_
#define FLEXQUANT_KERNELS_CPU_VEC_AVX512_H_

// The vector type of the AVX-512 kernels; operations as in vec_portable.h.

#include <immintrin.h>

#include <cstdint>

namespace flexquant::avx512 {

struct F32 {
  static constexpr int64_t kLanes = 16;
  __m512 v;

  static __mmask16 First(int64_t n) { return static_cast<__mmask16>(n >= kLanes ? 0xFFFFU : (1U << n) - 1U); }
  static F32 Set(float x) { return {_mm512_set1_ps(x)}; }
  static F32 Load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static F32 LoadN(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(First(n), p)}; }
  static F32 LoadHalf(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static F32 LoadHalfN(const uint16_t* p, int64_t n) {
    return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(First(n), p))};
  }
  static F32 FromBf16(__m256i x) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16))}; }
  static F32 LoadBf16(const uint16_t* p) { return FromBf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static F32 LoadBf16N(const uint16_t* p, int64_t n) { return FromBf16(_mm256_maskz_loadu_epi16(First(n), p)); }
  static F32 LoadBytes(const uint8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
  }
  static F32 LoadInt16(const int16_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))))};
  }
  void Store(float* p) const { _mm512_storeu_ps(p, v); }
  void StoreN(float* p, int64_t n) const { _mm512_mask_storeu_ps(p, First(n), v); }
  void StoreHalfN(uint16_t* p, int64_t n) const {
    _mm256_mask_storeu_epi16(p, First(n), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  void StoreInt8N(int8_t* p, int64_t n) const {
    _mm_mask_storeu_epi8(p, First(n), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
  }

  friend F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
  friend F32 Fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  friend F32 FusedFma(F32 a, F32 b, F32 c) { return Fma(a, b, c); }
  friend F32 Max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
  friend F32 Min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
  friend F32 Abs(F32 a) { return {_mm512_abs_ps(a.v)}; }
  friend F32 KeepWhereAtLeast(F32 a, F32 x, F32 limit) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_GE_OQ), a.v)};
  }
  friend F32 Pow2(F32 a) {
    const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(a.v), _mm512_set1_epi32(127));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
  }
  // Own trees, not _mm512_reduce_*: a fixed order whatever the compiler.
  friend float ReduceAdd(F32 a) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
  }
  friend float ReduceMax(F32 a) {
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
  }
};

struct I32 {
  __m512i v;

  static I32 Zero() { return {_mm512_setzero_si512()}; }
  static I32 Load(const int8_t* p) { return {_mm512_loadu_si512(p)}; }
  static I32 Repeat(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, sizeof(four));
    return {_mm512_set1_epi32(four)};
  }
  static I32 Nearest(F32 x) { return {_mm512_cvtps_epi32(x.v)}; }
  void StoreHigh7(int8_t* p) const { StoreBytes(_mm512_srli_epi32(v, 7), p); }
  void StoreLow7(int8_t* p) const { StoreBytes(_mm512_and_si512(v, _mm512_set1_epi32(127)), p); }
  static void StoreBytes(__m512i x, int8_t* p) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
  }
  friend I32 Dot(I32 sums, I32 a, I32 b) { return {_mm512_dpbusd_epi32(sums.v, a.v, b.v)}; }
  friend F32 ToFloat(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
};

}  // namespace flexquant::avx512

#endif  // FLEXQUANT_KERNELS_CPU_VEC_AVX512_H_
