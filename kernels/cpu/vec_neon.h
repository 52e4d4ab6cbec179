#ifndef FLEXQUANT_KERNELS_CPU_VEC_NEON_H_
#define FLEXQUANT_KERNELS_CPU_VEC_NEON_H_

// The vector type of the NEON kernels; operations as in vec_portable.h.

#include <arm_neon.h>

#include <cstdint>

namespace flexquant::neon {

struct F32 {
  static constexpr int64_t kLanes = 4;
  float32x4_t v;

  template <class T>
  struct Padded {
    T values[kLanes] = {};
    Padded(const T* p, int64_t n) {
      for (int64_t i = 0; i < n && i < kLanes; ++i) {
        values[i] = p[i];
      }
    }
  };
  static F32 Set(float x) { return {vdupq_n_f32(x)}; }
  static F32 Load(const float* p) { return {vld1q_f32(p)}; }
  static F32 LoadN(const float* p, int64_t n) { return Load(Padded<float>(p, n).values); }
  static F32 LoadHalf(const uint16_t* p) { return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))}; }
  static F32 LoadHalfN(const uint16_t* p, int64_t n) { return LoadHalf(Padded<uint16_t>(p, n).values); }
  static F32 LoadBf16(const uint16_t* p) { return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))}; }
  static F32 LoadBf16N(const uint16_t* p, int64_t n) { return LoadBf16(Padded<uint16_t>(p, n).values); }
  static F32 LoadBytes(const uint8_t* p) {
    uint32_t four;
    __builtin_memcpy(&four, p, sizeof(four));
    return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four)))))};
  }
  static F32 LoadInt16(const int16_t* p) { return {vcvtq_f32_s32(vmovl_s16(vld1_s16(p)))}; }
  void Store(float* p) const { vst1q_f32(p, v); }
  void StoreN(float* p, int64_t n) const {
    float padded[kLanes];
    Store(padded);
    for (int64_t i = 0; i < n && i < kLanes; ++i) {
      p[i] = padded[i];
    }
  }
  void StoreHalfN(uint16_t* p, int64_t n) const {
    const uint16x4_t halves = vreinterpret_u16_f16(vcvt_f16_f32(v));
    if (n >= kLanes) {
      vst1_u16(p, halves);
      return;
    }
    uint16_t padded[kLanes];
    vst1_u16(padded, halves);
    for (int64_t i = 0; i < n; ++i) {
      p[i] = padded[i];
    }
  }
  void StoreInt8N(int8_t* p, int64_t n) const {
    int32_t padded[kLanes];
    vst1q_s32(padded, vcvtnq_s32_f32(v));
    for (int64_t i = 0; i < n && i < kLanes; ++i) {
      p[i] = static_cast<int8_t>(padded[i]);
    }
  }

  friend F32 operator+(F32 a, F32 b) { return {vaddq_f32(a.v, b.v)}; }
  friend F32 operator-(F32 a, F32 b) { return {vsubq_f32(a.v, b.v)}; }
  friend F32 operator*(F32 a, F32 b) { return {vmulq_f32(a.v, b.v)}; }
  friend F32 operator/(F32 a, F32 b) { return {vdivq_f32(a.v, b.v)}; }
  friend F32 Fma(F32 a, F32 b, F32 c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
  friend F32 FusedFma(F32 a, F32 b, F32 c) { return Fma(a, b, c); }
  friend F32 Max(F32 a, F32 b) { return {vmaxq_f32(a.v, b.v)}; }
  friend F32 Min(F32 a, F32 b) { return {vminq_f32(a.v, b.v)}; }
  friend F32 Abs(F32 a) { return {vabsq_f32(a.v)}; }
  friend F32 KeepWhereAtLeast(F32 a, F32 x, F32 limit) {
    return {vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a.v), vcgeq_f32(x.v, limit.v)))};
  }
  friend F32 Pow2(F32 a) {
    const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(a.v), vdupq_n_s32(127));
    return {vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23))};
  }
  friend float ReduceAdd(F32 a) {
    const float32x2_t pairs = vadd_f32(vget_low_f32(a.v), vget_high_f32(a.v));
    return vget_lane_f32(pairs, 0) + vget_lane_f32(pairs, 1);
  }
  friend float ReduceMax(F32 a) { return vmaxvq_f32(a.v); }
};

struct I32 {
  int32x4_t v;

  static I32 Zero() { return {vdupq_n_s32(0)}; }
  static I32 Load(const int8_t* p) { return {vreinterpretq_s32_s8(vld1q_s8(p))}; }
  static I32 Repeat(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, sizeof(four));
    return {vdupq_n_s32(four)};
  }
  static I32 Nearest(F32 x) { return {vcvtnq_s32_f32(x.v)}; }
  void StoreHigh7(int8_t* p) const { StoreBytes(vshrq_n_s32(v, 7), p); }
  void StoreLow7(int8_t* p) const { StoreBytes(vandq_s32(v, vdupq_n_s32(127)), p); }
  static void StoreBytes(int32x4_t x, int8_t* p) {
    const int16x4_t shorts = vmovn_s32(x);
    const int8x8_t bytes = vmovn_s16(vcombine_s16(shorts, shorts));
    const uint32_t four = vget_lane_u32(vreinterpret_u32_s8(bytes), 0);
    __builtin_memcpy(p, &four, sizeof(four));
  }
  friend I32 Dot(I32 sums, I32 a, I32 b) {
    return {vdotq_s32(sums.v, vreinterpretq_s8_s32(a.v), vreinterpretq_s8_s32(b.v))};
  }
  friend F32 ToFloat(I32 a) { return {vcvtq_f32_s32(a.v)}; }
};

}  // namespace flexquant::neon

#endif  // FLEXQUANT_KERNELS_CPU_VEC_NEON_H_
