#ifndef FLEXQUANT_KERNELS_CPU_VEC_PORTABLE_H_
#define FLEXQUANT_KERNELS_CPU_VEC_PORTABLE_H_

// The vector type of the portable kernels. Every set's F32 has these operations; "N" forms touch n <= kLanes elements
// and load zeros beyond.

#include <cstdint>
#include <cstring>

namespace flexquant::portable {

inline float BitsToFloat(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t FloatToBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000U) << 16;
  const uint32_t magnitude = half & 0x7FFFU;
  if (magnitude >= 0x7C00U) {
    return BitsToFloat(sign | 0x7F800000U | ((magnitude & 0x3FFU) << 13));
  }
  // 2^112 moves the exponent's bias from 15 to 127; subnormals come out right as well.
  return BitsToFloat(sign | FloatToBits(BitsToFloat(magnitude << 13) * 0x1p112F));
}

// Round to nearest even; overflow goes to infinity, as F16C does.
inline uint16_t FloatToHalf(float value) {
  const uint32_t bits = FloatToBits(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000U);
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) {
    return static_cast<uint16_t>(sign | 0x7E00U | ((magnitude >> 13) & 0x3FFU));
  }
  if (magnitude >= 0x477FF000U) {
    return static_cast<uint16_t>(sign | 0x7C00U);
  }
  if (magnitude < 0x38800000U) {
    // Adding 0.5 leaves the subnormal half, rounded by the adder, in the low bits.
    return static_cast<uint16_t>(sign | (FloatToBits(BitsToFloat(magnitude) + 0.5F) - 0x3F000000U));
  }
  const uint32_t odd = (magnitude >> 13) & 1U;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000U + 0xFFFU + odd) >> 13));
}

struct F32 {
  static constexpr int64_t kLanes = 8;
  float v[kLanes];

  template <class Function>
  static F32 Make(Function function) {
    F32 result;
    for (int64_t i = 0; i < kLanes; ++i) {
      result.v[i] = function(i);
    }
    return result;
  }
  static F32 Set(float x) {
    return Make([x](int64_t) { return x; });
  }
  static F32 Load(const float* p) {
    return Make([p](int64_t i) { return p[i]; });
  }
  static F32 LoadN(const float* p, int64_t n) {
    return Make([p, n](int64_t i) { return i < n ? p[i] : 0.0F; });
  }
  static F32 LoadHalf(const uint16_t* p) {
    return Make([p](int64_t i) { return HalfToFloat(p[i]); });
  }
  static F32 LoadHalfN(const uint16_t* p, int64_t n) {
    return Make([p, n](int64_t i) { return i < n ? HalfToFloat(p[i]) : 0.0F; });
  }
  static F32 LoadBf16(const uint16_t* p) {
    return Make([p](int64_t i) { return BitsToFloat(static_cast<uint32_t>(p[i]) << 16); });
  }
  static F32 LoadBf16N(const uint16_t* p, int64_t n) {
    return Make([p, n](int64_t i) { return i < n ? BitsToFloat(static_cast<uint32_t>(p[i]) << 16) : 0.0F; });
  }
  static F32 LoadBytes(const uint8_t* p) {
    return Make([p](int64_t i) { return static_cast<float>(p[i]); });
  }
  static F32 LoadInt16(const int16_t* p) {
    return Make([p](int64_t i) { return static_cast<float>(p[i]); });
  }
  void Store(float* p) const { std::memcpy(p, v, sizeof(v)); }
  void StoreN(float* p, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) {
      p[i] = v[i];
    }
  }
  void StoreHalfN(uint16_t* p, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) {
      p[i] = FloatToHalf(v[i]);
    }
  }
  // Elements are integers in [-127, 127].
  void StoreInt8N(int8_t* p, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) {
      p[i] = static_cast<int8_t>(v[i]);
    }
  }

  friend F32 operator+(const F32& a, const F32& b) {
    return Make([&](int64_t i) { return a.v[i] + b.v[i]; });
  }
  friend F32 operator-(const F32& a, const F32& b) {
    return Make([&](int64_t i) { return a.v[i] - b.v[i]; });
  }
  friend F32 operator*(const F32& a, const F32& b) {
    return Make([&](int64_t i) { return a.v[i] * b.v[i]; });
  }
  friend F32 operator/(const F32& a, const F32& b) {
    return Make([&](int64_t i) { return a.v[i] / b.v[i]; });
  }
  // a * b + c.
  friend F32 Fma(const F32& a, const F32& b, const F32& c) {
    return Make([&](int64_t i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  // Fma with one rounding, for results that must be equal on every set.
  friend F32 FusedFma(const F32& a, const F32& b, const F32& c) {
    return Make([&](int64_t i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
  }
  friend F32 Max(const F32& a, const F32& b) {
    return Make([&](int64_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  friend F32 Min(const F32& a, const F32& b) {
    return Make([&](int64_t i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  friend F32 Abs(const F32& a) {
    return Make([&](int64_t i) { return BitsToFloat(FloatToBits(a.v[i]) & 0x7FFFFFFFU); });
  }
  // Elements of a where x >= limit, else 0.
  friend F32 KeepWhereAtLeast(const F32& a, const F32& x, const F32& limit) {
    return Make([&](int64_t i) { return x.v[i] >= limit.v[i] ? a.v[i] : 0.0F; });
  }
  // 2^a for integers in [-126, 127].
  friend F32 Pow2(const F32& a) {
    return Make(
        [&](int64_t i) { return BitsToFloat(static_cast<uint32_t>(static_cast<int32_t>(a.v[i]) + 127) << 23); });
  }
  friend float ReduceAdd(const F32& a) {
    return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7]));
  }
  friend float ReduceMax(const F32& a) {
    float result = a.v[0];
    for (const float x : a.v) {
      result = x > result ? x : result;
    }
    return result;
  }
};

// Integers, or four bytes a lane.
struct I32 {
  int32_t v[F32::kLanes];

  static I32 Zero() { return {}; }
  static I32 Load(const int8_t* p) {
    I32 result;
    std::memcpy(result.v, p, sizeof(result.v));
    return result;
  }
  static I32 Repeat(const int8_t* p) {
    I32 result;
    for (int32_t& four : result.v) {
      std::memcpy(&four, p, sizeof(four));
    }
    return result;
  }
  static I32 Nearest(const F32& x) {
    I32 result;
    for (int64_t lane = 0; lane < F32::kLanes; ++lane) {
      result.v[lane] = static_cast<int32_t>(__builtin_rintf(x.v[lane]));
    }
    return result;
  }
  // Bits 7 to 13, and 0 to 6, of integers in [0, 2^14), a byte a lane.
  void StoreHigh7(int8_t* p) const {
    for (int64_t lane = 0; lane < F32::kLanes; ++lane) {
      p[lane] = static_cast<int8_t>(v[lane] >> 7);
    }
  }
  void StoreLow7(int8_t* p) const {
    for (int64_t lane = 0; lane < F32::kLanes; ++lane) {
      p[lane] = static_cast<int8_t>(v[lane] & 127);
    }
  }
  // Adds to each lane the products of its bytes: of `a` in [0, 127], of `b` signed.
  friend I32 Dot(const I32& sums, const I32& a, const I32& b) {
    I32 result = sums;
    for (int64_t lane = 0; lane < F32::kLanes; ++lane) {
      int8_t x[4];
      int8_t y[4];
      std::memcpy(x, &a.v[lane], sizeof(x));
      std::memcpy(y, &b.v[lane], sizeof(y));
      for (int i = 0; i < 4; ++i) {
        result.v[lane] += x[i] * y[i];
      }
    }
    return result;
  }
  friend F32 ToFloat(const I32& a) {
    return F32::Make([&](int64_t i) { return static_cast<float>(a.v[i]); });
  }
};

}  // namespace flexquant::portable

#endif  // FLEXQUANT_KERNELS_CPU_VEC_PORTABLE_H_
