#ifndef FLEXQUANT_KERNELS_CPU_TABLES_H_
#define FLEXQUANT_KERNELS_CPU_TABLES_H_

// One table of kernels an instruction set. Code compiled for a set lives in that set's namespace, and shared code is a
// template on the set's vector type: an inline function that two sets share could be linked in the wrong version.

#include <type_traits>

#include "kernels/kernels.h"

namespace flexquant {

// Tokens whose sums a nested_gemm keeps in its workspace while it goes along K: each chunk unpacks the weights anew,
// and sums of two tiles, 24 KiB, have room in L1.
inline constexpr int64_t kTokenChunk = 192;
// Unpacked codes of two tiles' group: at most 128 columns of 2 x 16 rows.
inline constexpr int64_t kUnpackedBytes = 2 * kTileRows * 128;
inline constexpr int64_t kChunkSumsBytes = kTokenChunk * 2 * kTileRows * 4;
inline constexpr int64_t kWorkspaceAlignment = 64;

// Arguments of CpuKernels::nested_gemm.
struct NestedGemmArgs {
  const NestedMatrix& w;
  const QuantizedActivations& a;
  int64_t tile_begin;
  int64_t tile_end;
  float* y;
  int64_t ldy;
  void* workspace;
};

// QuantizedActivations::rows, of which kernels are templates.
template <bool kPairs>
inline constexpr int kRowsOf = kPairs ? 2 : 1;

// Calls body(constant) with the width as a compile-time constant; `bits` is one of kPrecisions. A body belongs to one
// set, so this does, too, as do the next ones.
template <class Body>
inline void WithWidth(int bits, Body body) {
  switch (bits) {
    case 3:
      return body(std::integral_constant<int, 3>());
    case 4:
      return body(std::integral_constant<int, 4>());
    case 5:
      return body(std::integral_constant<int, 5>());
    case 6:
      return body(std::integral_constant<int, 6>());
    default:
      return body(std::integral_constant<int, 8>());
  }
}

// Calls body(width, pairs), both compile-time constants; pairs: `a` has two rows a token.
template <class Body>
inline void WithWidthAndPairs(int bits, const QuantizedActivations& a, Body body) {
  WithWidth(bits, [&](auto width) {
    if (a.rows == 2) {
      body(width, std::bool_constant<true>());
    } else {
      body(width, std::bool_constant<false>());
    }
  });
}

// Calls body(constant) with the number of rows of activations, whole tokens in [1, kMost], as a compile-time constant;
// kMost for more.
template <bool kPairs, int kMost, class Body>
inline void WithRows(int64_t rows, Body body) {
  if constexpr (kMost > kRowsOf<kPairs>) {
    if (rows < kMost) {
      return WithRows<kPairs, kMost - kRowsOf<kPairs>>(rows, body);
    }
  }
  body(std::integral_constant<int, kMost>());
}

extern const CpuKernels kPortableKernels;
#if defined(__x86_64__)
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvxVnniKernels;
extern const CpuKernels kAvxVnniEvexKernels;  // the same for processors that have its instruction in AVX-512's encoding
extern const CpuKernels kAvx512VnniKernels;
#elif defined(__aarch64__)
extern const CpuKernels kNeonKernels;
#endif

using NestedGemmFunction = std::remove_pointer_t<decltype(CpuKernels::nested_gemm)>;
namespace portable {
NestedGemmFunction NestedGemm;
}  // namespace portable
namespace avx2 {
NestedGemmFunction NestedGemm;
}  // namespace avx2
namespace avxvnni {
NestedGemmFunction NestedGemmVex;
NestedGemmFunction NestedGemmEvex;
}  // namespace avxvnni
namespace neon {
NestedGemmFunction NestedGemm;
}  // namespace neon
namespace avx512 {
NestedGemmFunction NestedGemm;
}  // namespace avx512

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_TABLES_H_
