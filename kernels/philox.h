#ifndef FLEXQUANT_KERNELS_PHILOX_H_
#define FLEXQUANT_KERNELS_PHILOX_H_

#include <array>
#include <cstdint>

namespace flexquant {

// The block function of Philox4x32-10; words in the order of Random123's known-answer vectors.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_PHILOX_H_
