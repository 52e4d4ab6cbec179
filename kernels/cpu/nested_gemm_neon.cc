// nested_gemm for NEON with the dot product instructions (ARMv8.2 dotprod), whose operands have one sign: codes are
// shifted to signed bytes.

#include <arm_neon.h>

#include "kernels/cpu/nested_gemm_dot.h"
#include "kernels/cpu/vec_neon.h"

namespace flexquant::neon {
namespace {

struct Neon {
  using F32 = neon::F32;
  using Sums = int32x4_t;
  static constexpr int32_t kCodeBias = 128;

  struct Bytes {
    static constexpr int64_t kBytes = 16;
    uint8x16_t v;

    static Bytes Load(const uint8_t* from) { return {vld1q_u8(from)}; }
    static Bytes Set(int byte) { return {vdupq_n_u8(static_cast<uint8_t>(byte))}; }
    template <int kShift>
    static Bytes Shift(Bytes from) {
      if constexpr (kShift > 0) {
        return {vshlq_n_u8(from.v, kShift)};
      } else if constexpr (kShift < 0) {
        return {vshrq_n_u8(from.v, -kShift)};
      } else {
        return from;
      }
    }
    void Store(uint8_t* to) const { vst1q_u8(to, v); }
    friend Bytes And(Bytes a, Bytes b) { return {vandq_u8(a.v, b.v)}; }
    friend Bytes Merge(Bytes acc, Bytes from, Bytes mask) { return {vorrq_u8(acc.v, vandq_u8(from.v, mask.v))}; }
    friend Bytes Select(Bytes mask, Bytes a, Bytes b) { return {vbslq_u8(mask.v, a.v, b.v)}; }
  };

  static Sums Zero() { return vdupq_n_s32(0); }
  static Bytes Operand(Bytes codes) { return {veorq_u8(codes.v, vdupq_n_u8(0x80))}; }
  static Bytes Broadcast(const int8_t* four) {
    int32_t quad;
    __builtin_memcpy(&quad, four, sizeof(quad));
    return {vreinterpretq_u8_s32(vdupq_n_s32(quad))};
  }
  static Sums Dot(Sums sums, Bytes operand, Bytes four) {
    return vdotq_s32(sums, vreinterpretq_s8_u8(operand.v), vreinterpretq_s8_u8(four.v));
  }
  static Sums Pair(Sums coarse, Sums fine) { return vaddq_s32(vshlq_n_s32(coarse, 7), fine); }
  static Sums AddToEach(Sums sums, int32_t value) { return vaddq_s32(sums, vdupq_n_s32(value)); }
  static F32 ToFloat(Sums sums) { return {vcvtq_f32_s32(sums)}; }
};

}  // namespace

void NestedGemm(const NestedMatrix& w, int bits, const QuantizedActivations& a, int64_t tile_begin, int64_t tile_end,
                float* y, int64_t ldy, void* workspace) {
  DotGemm<Neon>::Run({w, a, tile_begin, tile_end, y, ldy, workspace}, bits);
}

}  // namespace flexquant::neon
