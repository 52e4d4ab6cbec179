#ifndef FLEXQUANT_KERNELS_CPU_MAKE_TABLE_H_
#define FLEXQUANT_KERNELS_CPU_MAKE_TABLE_H_

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_8.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/kl_divergence.h"
#include "kernels/cpu/logit_stats.h"
#include "kernels/cpu/reference_gemm.h"
#include "kernels/cpu/rescoring.h"
#include "kernels/cpu/store_kv_8.h"
#include "kernels/cpu/tables.h"

namespace flexquant {

// The table of an instruction set: the shared kernels over its vector types, and its own nested_gemm.
template <class F32, class I32>
constexpr CpuKernels MakeTable(Isa isa, NestedGemmFunction* nested_gemm) {
  return {isa,
          &QuantizeActivations<F32>,
          nested_gemm,
          &ReferenceGemm<F32>,
          &RmsNorm<F32>,
          &Rope<F32>,
          &SiluMul<F32>,
          &Add<F32>,
          &StoreKeys<F32>,
          &StoreValues<F32>,
          &Attention<F32>,
          &StoreKv8<F32>,
          &Attention8<F32, I32>,
          &Attention8Part<F32, I32>,
          &MergeAttention8<F32>,
          &ComputeLogitStats<F32>,
          &KlDivergence<F32>,
          &Likeliest<F32>,
          &DotCodes<F32>};
}

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_MAKE_TABLE_H_
