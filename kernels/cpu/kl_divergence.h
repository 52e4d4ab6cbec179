#ifndef FLEXQUANT_KERNELS_CPU_KL_DIVERGENCE_H_
#define FLEXQUANT_KERNELS_CPU_KL_DIVERGENCE_H_

#include <cstdint>

#include "kernels/cpu/exp.h"
#include "kernels/cpu/logit_stats.h"

namespace flexquant {

// Sums p * (d - 1) + q, d = log p - log q, instead of p * d: the same since both distributions sum to 1, but no term is
// negative and d's errors cancel to first order.
template <class F32>
double KlDivergence(const float* p, float p_log_sum_exp, const float* q, float q_log_sum_exp, int64_t n) {
  const F32 p_log_sum = F32::Set(p_log_sum_exp);
  const F32 q_log_sum = F32::Set(q_log_sum_exp);
  const F32 one = F32::Set(1.0F);
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += kLogitBlock) {
    const int64_t end = n - begin < kLogitBlock ? n : begin + kLogitBlock;
    F32 block_sum = F32::Set(0.0F);
    int64_t i = begin;
    for (; i + F32::kLanes <= end; i += F32::kLanes) {
      const F32 log_p = F32::Load(p + i) - p_log_sum;
      const F32 log_q = F32::Load(q + i) - q_log_sum;
      block_sum = block_sum + Fma(Exp(log_p), log_p - log_q - one, Exp(log_q));
    }
    sum += static_cast<double>(ReduceAdd(block_sum));
    for (; i < end; ++i) {
      const double log_p = static_cast<double>(p[i]) - static_cast<double>(p_log_sum_exp);
      const double log_q = static_cast<double>(q[i]) - static_cast<double>(q_log_sum_exp);
      sum += __builtin_exp(log_p) * (log_p - log_q - 1) + __builtin_exp(log_q);
    }
  }
  return sum > 0 ? sum : 0;
}

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_KL_DIVERGENCE_H_
