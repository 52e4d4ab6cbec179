#ifndef FLEXQUANT_CONTROLLER_MIX_BITS_H_
#define FLEXQUANT_CONTROLLER_MIX_BITS_H_

#include <cstdint>

namespace flexquant::controller {

// SplitMix64's finaliser: well-mixed bits from a counter, the same on every platform.
inline uint64_t MixBits(uint64_t value) {
  value += 0x9E3779B97F4A7C15U;
  value = (value ^ (value >> 30U)) * 0xBF58476D1CE4E5B9U;
  value = (value ^ (value >> 27U)) * 0x94D049BB133111EBU;
  return value ^ (value >> 31U);
}

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_MIX_BITS_H_
