#ifndef FLEXQUANT_KERNELS_CPU_BYTES_256_H_
#define FLEXQUANT_KERNELS_CPU_BYTES_256_H_

// The byte vector of unpack.h in a register of AVX2. `Tag` is a type of the including file's own, so that files
// compiled for different sets share no function.

#include <immintrin.h>

#include <cstdint>

namespace flexquant {

template <class Tag>
struct Bytes256 {
  static constexpr int64_t kBytes = 32;
  __m256i v;

  static Bytes256 Load(const uint8_t* from) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))}; }
  static Bytes256 Set(int byte) { return {_mm256_set1_epi8(static_cast<char>(byte))}; }
  template <int kShift>
  static Bytes256 Shift(Bytes256 from) {
    if constexpr (kShift > 0) {
      return {_mm256_slli_epi16(from.v, kShift)};
    } else if constexpr (kShift < 0) {
      return {_mm256_srli_epi16(from.v, -kShift)};
    } else {
      return from;
    }
  }
  void Store(uint8_t* to) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v); }
  friend Bytes256 And(Bytes256 a, Bytes256 b) { return {_mm256_and_si256(a.v, b.v)}; }
  friend Bytes256 Merge(Bytes256 acc, Bytes256 from, Bytes256 mask) {
    return {_mm256_or_si256(acc.v, _mm256_and_si256(from.v, mask.v))};
  }
  friend Bytes256 Select(Bytes256 mask, Bytes256 a, Bytes256 b) {
    return {_mm256_or_si256(_mm256_and_si256(mask.v, a.v), _mm256_andnot_si256(mask.v, b.v))};
  }
};

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_BYTES_256_H_
