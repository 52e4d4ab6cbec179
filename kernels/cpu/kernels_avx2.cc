#include "kernels/cpu/make_table.h"
#include "kernels/cpu/vec_avx2.h"

namespace flexquant {

constinit const CpuKernels kAvx2Kernels = MakeTable<avx2::F32>(Isa::kAvx2, &avx2::NestedGemm);

}  // namespace flexquant
