#ifndef FLEXQUANT_KERNELS_CPU_TABLES_H_
#define FLEXQUANT_KERNELS_CPU_TABLES_H_

// One table of kernels an instruction set. Code compiled for a set lives in that set's namespace, and shared code is a
// template on the set's vector type: an inline function that two sets share could be linked in the wrong version.

#include <type_traits>

#include "kernels/kernels.h"

namespace flexquant {

// Tokens whose sums a nested_gemm keeps in its workspace while it goes along K.
inline constexpr int64_t kTokenChunk = 96;
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

// Calls body(constant) with the width as a compile-time constant; `bits` is one of kPrecisions. A body belongs to one
// set, so this does, too.
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

extern const CpuKernels kPortableKernels;
#if defined(__x86_64__)
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvxVnniKernels;
extern const CpuKernels kAvxVnniEvexKernels;  // the same for processors that have its instruction in AVX-512's encoding
extern const CpuKernels kAvx512VnniKernels;
#elif defined(__aarch64__)
extern const CpuKernels kNeonKernels;
#endif

namespace portable {
void NestedGemm(const NestedMatrix& w, int bits, const QuantizedActivations& a, int64_t tile_begin, int64_t tile_end,
                float* y, int64_t ldy, void* workspace);
}  // namespace portable
namespace avx2 {
void NestedGemm(const NestedMatrix& w, int bits, const QuantizedActivations& a, int64_t tile_begin, int64_t tile_end,
                float* y, int64_t ldy, void* workspace);
}  // namespace avx2
namespace avxvnni {
void NestedGemmVex(const NestedMatrix& w, int bits, const QuantizedActivations& a, int64_t tile_begin, int64_t tile_end,
                   float* y, int64_t ldy, void* workspace);
void NestedGemmEvex(const NestedMatrix& w, int bits, const QuantizedActivations& a, int64_t tile_begin,
                    int64_t tile_end, float* y, int64_t ldy, void* workspace);
}  // namespace avxvnni
namespace neon {
void NestedGemm(const NestedMatrix& w, int bits, const QuantizedActivations& a, int64_t tile_begin, int64_t tile_end,
                float* y, int64_t ldy, void* workspace);
}  // namespace neon
namespace avx512 {
void NestedGemm(const NestedMatrix& w, int bits, const QuantizedActivations& a, int64_t tile_begin, int64_t tile_end,
                float* y, int64_t ldy, void* workspace);
void NestedGemm15(const NestedMatrix& w, int bits, const QuantizedActivations& a, int64_t tile_begin, int64_t tile_end,
                  float* y, int64_t ldy, void* workspace);
}  // namespace avx512

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_TABLES_H_
