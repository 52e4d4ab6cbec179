#include "kernels/cpu/nested_gemm_dot.h"
#include "kernels/cpu/vnni256.h"

namespace flexquant::avxvnni {
namespace {

struct Encoding {};

}  // namespace

void NestedGemmVex(const NestedMatrix& w, int bits, const QuantizedActivations& a, int64_t tile_begin, int64_t tile_end,
                   float* y, int64_t ldy, void* workspace) {
  DotGemm<Vnni256<Encoding>>::Run({w, a, tile_begin, tile_end, y, ldy, workspace}, bits);
}

}  // namespace flexquant::avxvnni
