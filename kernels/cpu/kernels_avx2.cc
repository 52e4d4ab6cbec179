#include "kernels/cpu/make_table.h"
#include "kernels/cpu/vec_avx2.h"

namespace flexquant {

constinit const CpuKernels kAvx2Kernels = MakeTable<avx2::F32, avx2::I32>(Isa::kAvx2, &avx2::NestedGemm);
constinit const CpuKernels kAvxVnniKernels = MakeTable<avx2::F32, avx2::I32>(Isa::kAvxVnni, &avxvnni::NestedGemmVex);
constinit const CpuKernels kAvxVnniEvexKernels =
    MakeTable<avx2::F32, avx2::I32>(Isa::kAvxVnni, &avxvnni::NestedGemmEvex);

}  // namespace flexquant
