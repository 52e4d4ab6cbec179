#ifndef FLEXQUANT_KERNELS_CPU_UNPACK_H_
#define FLEXQUANT_KERNELS_CPU_UNPACK_H_

// Planes to codes (common/nested_matrix.h). A template on a byte vector `B` of an instruction set, with
//   B::Load(const uint8_t*), B::Set(int byte), B::Shift<n>(v) (left by n, right by -n; bits that cross bytes are masked
//   off by the callers), And(a, b), Merge(acc, v, mask) = acc | (v & mask), Select(mask, a, b) = mask ? a : b, bitwise.
// A word of 64 bytes is loaded in parts of B::kBytes; `part` says which.

#include <cstdint>

#include "common/nested_matrix.h"

namespace flexquant {

// Where each plane of one tile starts.
template <class B>
struct TilePlanes {
  const uint8_t* base3;
  const uint8_t* bit4;
  const uint8_t* bit5;
  const uint8_t* bit6;
  const uint8_t* bits78;

  TilePlanes(const NestedMatrix& w, int64_t tile, int64_t units)
      : base3(w.base3 + tile * units * 3 * kPlaneWordBytes),
        bit4(w.bit4 + tile * units * kPlaneWordBytes),
        bit5(w.bit5 + tile * units * kPlaneWordBytes),
        bit6(w.bit6 + tile * units * kPlaneWordBytes),
        bits78(w.bits78 + tile * units * 2 * kPlaneWordBytes) {}
};

template <class B, int kDrop>
inline void UnpackBase3(const uint8_t* words, B f[8]) {
  const B a = B::Load(words);
  const B b = B::Load(words + kPlaneWordBytes);
  const B c = B::Load(words + 2 * kPlaneWordBytes);
  const B top3 = B::Set(0xE0 >> kDrop);
  const B top2 = B::Set(0xC0 >> kDrop);
  f[0] = And(B::template Shift<-kDrop>(a), top3);
  f[1] = And(B::template Shift<3 - kDrop>(a), top3);
  f[2] = And(B::template Shift<-kDrop>(b), top3);
  f[3] = And(B::template Shift<3 - kDrop>(b), top3);
  f[4] = And(B::template Shift<-kDrop>(c), top3);
  f[5] = And(B::template Shift<3 - kDrop>(c), top3);
  f[6] = And(Select(top2, B::template Shift<6 - kDrop>(a), B::template Shift<4 - kDrop>(c)), top3);
  f[7] = And(Select(top2, B::template Shift<6 - kDrop>(b), B::template Shift<5 - kDrop>(c)), top3);
}

// Merges the `kWidth` leading bits of the planes at bits 4, 3, 2 that `v` holds for a register with the first of them
// at bit kAt.
template <class B, int kDrop, int kAt, int kWidth>
inline B MergeField(B acc, B v) {
  constexpr int kMask = ((0x1C & ~((4 << (3 - kWidth)) - 1)) >> kDrop);
  return Merge(acc, B::template Shift<4 - kDrop - kAt>(v), B::Set(kMask));
}

template <class B, int kDrop>
inline void MergeOnePlane(B p4, B f[8]) {
  f[0] = MergeField<B, kDrop, 0, 1>(f[0], p4);
  f[1] = MergeField<B, kDrop, 1, 1>(f[1], p4);
  f[2] = MergeField<B, kDrop, 2, 1>(f[2], p4);
  f[3] = MergeField<B, kDrop, 3, 1>(f[3], p4);
  f[4] = MergeField<B, kDrop, 4, 1>(f[4], p4);
  f[5] = MergeField<B, kDrop, 5, 1>(f[5], p4);
  f[6] = MergeField<B, kDrop, 6, 1>(f[6], p4);
  f[7] = MergeField<B, kDrop, 7, 1>(f[7], p4);
}

// Bits of both planes that belong to one register are first put side by side, so that one shift moves both.
template <class B, int kDrop>
inline void MergeTwoPlanes(B p4, B p5, B f[8]) {
  const B high = B::Set(0xAA);
  const B odd = Select(high, p4, B::template Shift<-1>(p5));
  const B even = Select(high, B::template Shift<1>(p4), p5);
  f[0] = MergeField<B, kDrop, 1, 2>(f[0], even);
  f[1] = MergeField<B, kDrop, 1, 2>(f[1], odd);
  f[2] = MergeField<B, kDrop, 3, 2>(f[2], even);
  f[3] = MergeField<B, kDrop, 3, 2>(f[3], odd);
  f[4] = MergeField<B, kDrop, 5, 2>(f[4], even);
  f[5] = MergeField<B, kDrop, 5, 2>(f[5], odd);
  f[6] = MergeField<B, kDrop, 7, 2>(f[6], even);
  f[7] = MergeField<B, kDrop, 7, 2>(f[7], odd);
}

// The same for three planes: each of four words carries the three bits of two registers.
template <class B, int kDrop>
inline void MergeThreePlanes(B p4, B p5, B p6, B f[8]) {
  const B p4_1 = B::template Shift<1>(p4);
  const B p6_1 = B::template Shift<-1>(p6);
  const B w03 = Select(B::Set(0x24), B::template Shift<2>(p4), Select(B::Set(0x12), B::template Shift<1>(p5), p6));
  const B w47 = Select(B::Set(0x90), p4, Select(B::Set(0x48), B::template Shift<-1>(p5), B::template Shift<-2>(p6)));
  const B w25 = Select(B::Set(0x48), p4_1, Select(B::Set(0x24), p5, p6_1));
  const B w16 = Select(B::Set(0x84), p4_1, Select(B::Set(0x42), p5, p6_1));
  f[0] = MergeField<B, kDrop, 2, 3>(f[0], w03);
  f[1] = MergeField<B, kDrop, 2, 3>(f[1], w16);
  f[2] = MergeField<B, kDrop, 3, 3>(f[2], w25);
  f[3] = MergeField<B, kDrop, 5, 3>(f[3], w03);
  f[4] = MergeField<B, kDrop, 4, 3>(f[4], w47);
  f[5] = MergeField<B, kDrop, 6, 3>(f[5], w25);
  f[6] = MergeField<B, kDrop, 7, 3>(f[6], w16);
  f[7] = MergeField<B, kDrop, 7, 3>(f[7], w47);
}

// Code bits 7:2 of a unit as far as kBits reaches, shifted right by kDrop (0 or 2).
template <class B, int kBits, int kDrop>
inline void UnpackHigh(const TilePlanes<B>& planes, int64_t unit, int64_t part, B f[8]) {
  const int64_t at = unit * kPlaneWordBytes + part * B::kBytes;
  UnpackBase3<B, kDrop>(planes.base3 + unit * 3 * kPlaneWordBytes + part * B::kBytes, f);
  if constexpr (kBits == 4) {
    MergeOnePlane<B, kDrop>(B::Load(planes.bit4 + at), f);
  } else if constexpr (kBits == 5) {
    MergeTwoPlanes<B, kDrop>(B::Load(planes.bit4 + at), B::Load(planes.bit5 + at), f);
  } else if constexpr (kBits >= 6) {
    MergeThreePlanes<B, kDrop>(B::Load(planes.bit4 + at), B::Load(planes.bit5 + at), B::Load(planes.bit6 + at), f);
  }
}

// Adds code bits 1:0.
template <class B>
inline void MergeLow(const TilePlanes<B>& planes, int64_t unit, int64_t part, B f[8]) {
  const uint8_t* words = planes.bits78 + unit * 2 * kPlaneWordBytes + part * B::kBytes;
  const B low = B::Set(3);
  for (int j = 0; j < 2; ++j) {
    const B v = B::Load(words + j * kPlaneWordBytes);
    f[4 * j] = Merge(f[4 * j], v, low);
    f[4 * j + 1] = Merge(f[4 * j + 1], B::template Shift<-2>(v), low);
    f[4 * j + 2] = Merge(f[4 * j + 2], B::template Shift<-4>(v), low);
    f[4 * j + 3] = Merge(f[4 * j + 3], B::template Shift<-6>(v), low);
  }
}

// Whole codes u of a unit at precision kBits.
template <class B, int kBits>
inline void UnpackUnit(const TilePlanes<B>& planes, int64_t unit, int64_t part, B f[8]) {
  UnpackHigh<B, kBits, 0>(planes, unit, part, f);
  if constexpr (kBits == 8) {
    MergeLow<B>(planes, unit, part, f);
  }
}

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_UNPACK_H_
