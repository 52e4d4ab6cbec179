#include "kernels/cpu/make_table.h"
#include "kernels/cpu/vec_portable.h"

namespace flexquant {

constinit const CpuKernels kPortableKernels =
    MakeTable<portable::F32, portable::I32>(Isa::kPortable, &portable::NestedGemm);

}  // namespace flexquant
