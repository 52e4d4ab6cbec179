#ifndef FLEXQUANT_KERNELS_CPU_VEC_AVX2_H_
#define FLEXQUANT_KERNELS_CPU_VEC_AVX2_H_

// The vector type of the AVX2 + FMA + F16C kernels; operations as in vec_portable.h.

#include <immintrin.h>

#include <cstdint>

namespace flexquant::avx2 {

struct F32 {
  static constexpr int64_t kLanes = 8;
  __m256 v;

  static __m256i First(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static __m128i LoadShorts(const uint16_t* p, int64_t n) {
    alignas(16) uint16_t padded[kLanes] = {};
    for (int64_t i = 0; i < n && i < kLanes; ++i) {
      padded[i] = p[i];
    }
    return _mm_load_si128(reinterpret_cast<const __m128i*>(padded));
  }
  static F32 Set(float x) { return {_mm256_set1_ps(x)}; }
  static F32 Load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static F32 LoadN(const float* p, int64_t n) { return {_mm256_maskload_ps(p, First(n))}; }
  static F32 LoadHalf(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static F32 LoadHalfN(const uint16_t* p, int64_t n) { return {_mm256_cvtph_ps(LoadShorts(p, n))}; }
  static F32 FromBf16(__m128i x) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16))}; }
  static F32 LoadBf16(const uint16_t* p) { return FromBf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static F32 LoadBf16N(const uint16_t* p, int64_t n) { return FromBf16(LoadShorts(p, n)); }
  static F32 LoadBytes(const uint8_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
  }
  static F32 LoadInt16(const int16_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
  }
  void Store(float* p) const { _mm256_storeu_ps(p, v); }
  void StoreN(float* p, int64_t n) const { _mm256_maskstore_ps(p, First(n), v); }
  void StoreHalfN(uint16_t* p, int64_t n) const {
    const __m128i halves = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if (n >= kLanes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves);
      return;
    }
    alignas(16) uint16_t padded[kLanes];
    _mm_store_si128(reinterpret_cast<__m128i*>(padded), halves);
    for (int64_t i = 0; i < n; ++i) {
      p[i] = padded[i];
    }
  }
  void StoreInt8N(int8_t* p, int64_t n) const {
    const __m256i wide = _mm256_cvtps_epi32(v);
    const __m128i shorts = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    alignas(16) int8_t padded[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(padded), _mm_packs_epi16(shorts, shorts));
    for (int64_t i = 0; i < n && i < kLanes; ++i) {
      p[i] = padded[i];
    }
  }

  friend F32 operator+(F32 a, F32 b) { return {_mm256_add_ps(a.v, b.v)}; }
  friend F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
  friend F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
  friend F32 operator/(F32 a, F32 b) { return {_mm256_div_ps(a.v, b.v)}; }
  friend F32 Fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  friend F32 FusedFma(F32 a, F32 b, F32 c) { return Fma(a, b, c); }
  friend F32 Max(F32 a, F32 b) { return {_mm256_max_ps(a.v, b.v)}; }
  friend F32 Min(F32 a, F32 b) { return {_mm256_min_ps(a.v, b.v)}; }
  friend F32 Abs(F32 a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0F), a.v)}; }
  friend F32 KeepWhereAtLeast(F32 a, F32 x, F32 limit) {
    return {_mm256_and_ps(_mm256_cmp_ps(x.v, limit.v, _CMP_GE_OQ), a.v)};
  }
  friend F32 Pow2(F32 a) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(a.v), _mm256_set1_epi32(127));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))};
  }
  friend float ReduceAdd(F32 a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
  }
  friend float ReduceMax(F32 a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
  }
};

struct I32 {
  __m256i v;

  static I32 Zero() { return {_mm256_setzero_si256()}; }
  static I32 Load(const int8_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  static I32 Repeat(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, sizeof(four));
    return {_mm256_set1_epi32(four)};
  }
  static I32 Nearest(F32 x) { return {_mm256_cvtps_epi32(x.v)}; }
  void StoreHigh7(int8_t* p) const { StoreBytes(_mm256_srli_epi32(v, 7), p); }
  void StoreLow7(int8_t* p) const { StoreBytes(_mm256_and_si256(v, _mm256_set1_epi32(127)), p); }
  static void StoreBytes(__m256i x, int8_t* p) {
    const __m128i shorts = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(shorts, shorts));
  }
  friend I32 Dot(I32 sums, I32 a, I32 b) {
    const __m256i pairs = _mm256_maddubs_epi16(a.v, b.v);  // at most 2 * 127 * 128 in absolute value
    return {_mm256_add_epi32(sums.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
  }
  friend F32 ToFloat(I32 a) { return {_mm256_cvtepi32_ps(a.v)}; }
};

}  // namespace flexquant::avx2

#endif  // FLEXQUANT_KERNELS_CPU_VEC_AVX2_H_
