#ifndef FLEXQUANT_KERNELS_KV_8_H_
#define FLEXQUANT_KERNELS_KV_8_H_

#include <cstdint>
#include <type_traits>

namespace flexquant {

// Keys, or values, of 16 positions and one KV head in 8 bits: codes in [-127, 127], and a scale of fp16 a position.
// Four dimensions of a key lie together, and the same ones of all positions; of values, a dimension of four positions:
// what dot products of four bytes take. Dimensions are padded with zeros, which come from memory that was zero: nothing
// else is written there. `Set` keeps functions that are compiled for different instruction sets apart; elsewhere void.
template <class Set>
struct Kv8Slab {
  int64_t padded = 0;  // head_dim, rounded up to a multiple of 16

  int64_t bytes() const { return code_bytes() + 64; }  // a multiple of 64
  // Of the slab at `slab`, const if that is:
  template <class Byte>
  auto* codes(Byte* slab) const {  // keys [padded / 4][16 positions][4 dimensions]; values [4][padded][4 positions]
    return As<int8_t>(slab);
  }
  template <class Byte>
  auto* scales(Byte* slab) const {  // [16], fp16
    return As<uint16_t>(slab + code_bytes());
  }
  template <class Byte>
  auto* sums(Byte* slab) const {  // [16], of a key's codes; values have none
    return As<int16_t>(slab + code_bytes() + 32);
  }

 private:
  int64_t code_bytes() const { return 16 * padded; }
  template <class T, class Byte>
  static auto* As(Byte* at) {
    return reinterpret_cast<std::conditional_t<std::is_const_v<Byte>, const T, T>*>(at);
  }
};

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_KV_8_H_
