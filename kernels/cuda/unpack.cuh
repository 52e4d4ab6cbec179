#ifndef FLEXQUANT_KERNELS_CUDA_UNPACK_CUH_
#define FLEXQUANT_KERNELS_CUDA_UNPACK_CUH_

// Packed words -> eight registers of four codes; packing as in common/nested_matrix.h.

#include <cstdint>

namespace flexquant::cuda {

// Code bits 7:5 of f[0..7].
__device__ __forceinline__ void UnpackBase(uint32_t a, uint32_t b, uint32_t c, uint32_t (&f)[8]) {
  constexpr uint32_t kTop = 0xE0E0E0E0U;
  f[0] = a & kTop;
  f[1] = (a << 3) & kTop;
  f[2] = b & kTop;
  f[3] = (b << 3) & kTop;
  f[4] = c & kTop;
  f[5] = (c << 3) & kTop;
  f[6] = ((a << 6) & 0xC0C0C0C0U) | ((c << 4) & 0x20202020U);
  f[7] = ((b << 6) & 0xC0C0C0C0U) | ((c << 5) & 0x20202020U);
}

// Code bit kBit of f[0..7], from a word with bit r of each byte for register r. kMerge: or it into f, else f is it.
template <int kBit, bool kMerge>
__device__ __forceinline__ void UnpackBit(uint32_t word, uint32_t (&f)[8]) {
  constexpr uint32_t kMask = 0x01010101U << kBit;
#pragma unroll
  for (int r = 0; r < 8; ++r) {
    const uint32_t shifted = r <= kBit ? word << (kBit - r) : word >> (r - kBit);
    f[r] = kMerge ? f[r] | (shifted & kMask) : shifted & kMask;
  }
}

// Code bits 1:0.
template <bool kMerge>
__device__ __forceinline__ void UnpackLow(uint32_t word0, uint32_t word1, uint32_t (&f)[8]) {
#pragma unroll
  for (int r = 0; r < 8; ++r) {
    const uint32_t low = ((r < 4 ? word0 : word1) >> (2 * (r % 4))) & 0x03030303U;
    f[r] = kMerge ? f[r] | low : low;
  }
}

// The leading kBits of every code. words[kBits].
template <int kBits>
__device__ __forceinline__ void Unpack(const uint32_t* words, uint32_t (&f)[8]) {
  UnpackBase(words[0], words[1], words[2], f);
  if constexpr (kBits >= 4) {
    UnpackBit<4, true>(words[3], f);
  }
  if constexpr (kBits >= 5) {
    UnpackBit<3, true>(words[4], f);
  }
  if constexpr (kBits >= 6) {
    UnpackBit<2, true>(words[5], f);
  }
  if constexpr (kBits >= 8) {
    UnpackLow<true>(words[6], words[7], f);
  }
}

// The inverse of Unpack<8>; for the repacking kernel.
__device__ __forceinline__ void Pack(const uint32_t (&f)[8], uint32_t (&words)[8]) {
  constexpr uint32_t kTop = 0xE0E0E0E0U;
  words[0] = (f[0] & kTop) | ((f[1] & kTop) >> 3) | ((f[6] & 0xC0C0C0C0U) >> 6);
  words[1] = (f[2] & kTop) | ((f[3] & kTop) >> 3) | ((f[7] & 0xC0C0C0C0U) >> 6);
  words[2] = (f[4] & kTop) | ((f[5] & kTop) >> 3) | ((f[6] & 0x20202020U) >> 4) | ((f[7] & 0x20202020U) >> 5);
#pragma unroll
  for (int plane = 0; plane < 3; ++plane) {
    words[3 + plane] = 0;
#pragma unroll
    for (int r = 0; r < 8; ++r) {
      words[3 + plane] |= ((f[r] >> (4 - plane)) & 0x01010101U) << r;
    }
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    words[6 + j] = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      words[6 + j] |= (f[4 * j + i] & 0x03030303U) << (2 * i);
    }
  }
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_UNPACK_CUH_
