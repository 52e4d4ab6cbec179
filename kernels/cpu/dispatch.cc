#include <vector>

#include "common/check.h"
#include "kernels/cpu/attention_workspace.h"
#include "kernels/cpu/tables.h"
#include "kernels/kernels.h"

namespace flexquant {

size_t NestedGemmWorkspaceBytes(const NestedMatrix& /*w*/) {
  return static_cast<size_t>(kUnpackedBytes + kChunkSumsBytes + kWorkspaceAlignment);
}

size_t AttentionWorkspaceBytes(const AttentionShape& shape, int64_t /*max_positions*/) {
  return static_cast<size_t>(AttentionWorkspaceFloats(shape.head_dim)) * sizeof(float) +
         static_cast<size_t>(kWorkspaceAlignment);
}

// __builtin_cpu_supports also asks whether the operating system saves the registers.
bool IsaSupported(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return true;
#if defined(__x86_64__)
    case Isa::kAvx2:
      // No name for F16C in GCC 12's list; every CPU with AVX2 has it.
      return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
    case Isa::kAvx512Vnni:
      return IsaSupported(Isa::kAvx2) && __builtin_cpu_supports("avx512f") != 0 &&
             __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
             __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vnni") != 0;
#endif
    default:
      return false;
  }
}

Isa BestIsa() {
  for (const Isa isa : {Isa::kAvx512Vnni, Isa::kAvx2}) {
    if (IsaSupported(isa)) {
      return isa;
    }
  }
  return Isa::kPortable;
}

absl::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512Vnni:
      return "avx512vnni";
    default:
      return "portable";
  }
}

std::optional<Isa> ParseIsa(absl::string_view name) {
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512Vnni}) {
    if (name == IsaName(isa)) {
      return isa;
    }
  }
  return std::nullopt;
}

std::vector<Isa> AllIsas() {
#if defined(__x86_64__)
  return {Isa::kPortable, Isa::kAvx2, Isa::kAvx512Vnni};
#else
  return {Isa::kPortable};
#endif
}

const CpuKernels& GetCpuKernels(Isa isa) {
  FQ_CHECK(IsaSupported(isa));
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2:
      return kAvx2Kernels;
    case Isa::kAvx512Vnni:
      return kAvx512VnniKernels;
#endif
    default:
      return kPortableKernels;
  }
}

}  // namespace flexquant
