#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "common/check.h"
#include "kernels/cpu/attention_workspace.h"
#include "kernels/cpu/tables.h"
#include "kernels/kernels.h"
#include "kernels/kv_8.h"

namespace flexquant {
namespace {

#if defined(__x86_64__)
// Clang 14's __builtin_cpu_supports has no name for it. Bit 4 of EAX in sub-leaf 1 of leaf 7; it uses AVX2's registers.
bool HasVexVnni() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4U & 1U) != 0;
}

bool HasEvexVnni() {
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512vnni") != 0;
}
#endif

}  // namespace

size_t NestedGemmWorkspaceBytes(const NestedMatrix& /*w*/) {
  return static_cast<size_t>(kUnpackedBytes + kChunkSumsBytes + kWorkspaceAlignment);
}

size_t LikeliestWorkspaceBytes(int64_t n, int64_t limit) {
  // A maximum a block, then the tokens of `limit` blocks and of less than 16 vectors of at most 16 lanes behind them.
  return static_cast<size_t>(n / 16 + 16 * limit + 16 * 16) * sizeof(uint32_t);
}

size_t Kv8SlabBytes(int64_t head_dim) { return static_cast<size_t>(Kv8Slab<void>{PaddedHeadDim(head_dim)}.bytes()); }

size_t AttentionRecordBytes(int64_t head_dim) {
  return static_cast<size_t>(AttentionRecordFloats(head_dim)) * sizeof(float);
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
    case Isa::kAvxVnni:
      return IsaSupported(Isa::kAvx2) && (HasVexVnni() || HasEvexVnni());
    case Isa::kAvx512Vnni:
      return IsaSupported(Isa::kAvx2) && HasEvexVnni() && __builtin_cpu_supports("avx512dq") != 0;
#elif defined(__aarch64__)
    case Isa::kNeon:
      return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#endif
    default:
      return false;
  }
}

Isa BestIsa() {
  for (const Isa isa : {Isa::kAvx512Vnni, Isa::kAvxVnni, Isa::kAvx2, Isa::kNeon}) {
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
    case Isa::kAvxVnni:
      return "avxvnni";
    case Isa::kAvx512Vnni:
      return "avx512vnni";
    case Isa::kNeon:
      return "neon";
    default:
      return "portable";
  }
}

std::optional<Isa> ParseIsa(absl::string_view name) {
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512Vnni, Isa::kNeon}) {
    if (name == IsaName(isa)) {
      return isa;
    }
  }
  return std::nullopt;
}

std::vector<Isa> AllIsas() {
#if defined(__x86_64__)
  return {Isa::kPortable, Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512Vnni};
#elif defined(__aarch64__)
  return {Isa::kPortable, Isa::kNeon};
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
    case Isa::kAvxVnni:
      return HasVexVnni() ? kAvxVnniKernels : kAvxVnniEvexKernels;
    case Isa::kAvx512Vnni:
      return kAvx512VnniKernels;
#elif defined(__aarch64__)
    case Isa::kNeon:
      return kNeonKernels;
#endif
    default:
      return kPortableKernels;
  }
}

}  // namespace flexquant
