#include "kernels/cpu/make_table.h"
#include "kernels/cpu/vec_avx512.h"

namespace flexquant {

constinit const CpuKernels kAvx512VnniKernels =
    MakeTable<avx512::F32, avx512::I32>(Isa::kAvx512Vnni, &avx512::NestedGemm);

}  // namespace flexquant
