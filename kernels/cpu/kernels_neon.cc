#include "kernels/cpu/make_table.h"
#include "kernels/cpu/vec_neon.h"

namespace flexquant {

constinit const CpuKernels kNeonKernels = MakeTable<neon::F32, neon::I32>(Isa::kNeon, &neon::NestedGemm);

}  // namespace flexquant
