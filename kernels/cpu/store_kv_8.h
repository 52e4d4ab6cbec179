#ifndef FLEXQUANT_KERNELS_CPU_STORE_KV_8_H_
#define FLEXQUANT_KERNELS_CPU_STORE_KV_8_H_

// Keys and values of a position into the cache in 8 bits (kernels/kv_8.h).

#include <cstdint>

#include "kernels/cpu/attention_rows.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/kv_8.h"

namespace flexquant {

// A scale of 16 bits and the number that it stands for.
template <class F32>
float StoreScale(float scale, uint16_t* to) {
  constexpr float kMostOfHalf = 65504;
  F32::Set(scale < kMostOfHalf ? scale : kMostOfHalf).StoreHalfN(to, 1);
  return ReduceMax(F32::LoadHalfN(to, 1));
}

// Stores the codes of x [head_dim], that of dimension d at place(d), and their scale; returns the codes' sum.
template <class F32, class Place>
int32_t StoreCodes(const float* x, int64_t head_dim, uint16_t* scale_to, Place place) {
  const float scale = StoreScale<F32>(QuantizationStep<F32>(x, head_dim), scale_to);
  const F32 step = F32::Set(scale > 0 ? scale : 1.0F);
  const F32 inverse = F32::Set(1.0F) / step;
  const F32 most = F32::Set(127.0F);
  int32_t sum = 0;
  for (int64_t d = 0; d < head_dim; d += F32::kLanes) {
    const int64_t left = head_dim - d < F32::kLanes ? head_dim - d : F32::kLanes;
    int8_t codes[F32::kLanes];
    const F32 rounded = RoundToStep(F32::LoadN(x + d, left), step, inverse);
    Max(Min(rounded, most), F32::Set(-127.0F)).StoreInt8N(codes, F32::kLanes);  // the scale may have been rounded down
    for (int64_t i = 0; i < left; ++i) {
      *place(d + i) = codes[i];
      sum += codes[i];
    }
  }
  return sum;
}

template <class F32>
void StoreKv8(const float* k, const float* v, int64_t num_kv_heads, int64_t head_dim, uint8_t* k_dst, uint8_t* v_dst,
              int64_t head_stride, int64_t slot) {
  const Kv8Slab<F32> layout{Padded<F32>(head_dim)};
  for (int64_t head = 0; head < num_kv_heads; ++head) {
    uint8_t* key_slab = k_dst + head * head_stride;
    uint8_t* value_slab = v_dst + head * head_stride;
    int8_t* keys = layout.codes(key_slab) + slot * 4;
    layout.sums(key_slab)[slot] =
        static_cast<int16_t>(StoreCodes<F32>(k + head * head_dim, head_dim, layout.scales(key_slab) + slot,
                                             [&](int64_t d) { return keys + d / 4 * 4 * kSlabKeys + d % 4; }));
    int8_t* values = layout.codes(value_slab) + slot / 4 * layout.padded * 4 + slot % 4;
    StoreCodes<F32>(v + head * head_dim, head_dim, layout.scales(value_slab) + slot,
                    [&](int64_t d) { return values + d * 4; });
  }
}

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_STORE_KV_8_H_
