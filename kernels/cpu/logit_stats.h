#ifndef FLEXQUANT_KERNELS_CPU_LOGIT_STATS_H_
#define FLEXQUANT_KERNELS_CPU_LOGIT_STATS_H_

#include <cstdint>

#include "kernels/cpu/exp.h"
#include "kernels/kernels.h"

namespace flexquant {

inline constexpr int64_t kLogitBlock = 1024;
inline constexpr float kLowestLogit = -3.0e38F;

// Largest two logits, a tie counting twice, and where the largest first stands.
template <class F32>
inline void TopTwo(const float* logits, int64_t n, float* top1, float* top2, int64_t* argmax) {
  float best = kLowestLogit;
  int64_t best_block = 0;
  F32 first = F32::Set(kLowestLogit);
  F32 second = F32::Set(kLowestLogit);
  for (int64_t begin = 0; begin < n; begin += kLogitBlock) {
    const int64_t end = n - begin < kLogitBlock ? n : begin + kLogitBlock;
    int64_t i = begin;
    for (; i + F32::kLanes <= end; i += F32::kLanes) {
      const F32 v = F32::Load(logits + i);
      second = Max(second, Min(first, v));
      first = Max(first, v);
    }
    if (i < end) {
      float padded[F32::kLanes];
      for (int64_t lane = 0; lane < F32::kLanes; ++lane) {
        padded[lane] = i + lane < end ? logits[i + lane] : kLowestLogit;
      }
      const F32 v = F32::Load(padded);
      second = Max(second, Min(first, v));
      first = Max(first, v);
    }
    const float block_best = ReduceMax(first);
    if (block_best > best) {
      best = block_best;
      best_block = begin;
    }
  }
  float lanes[2][F32::kLanes];
  first.Store(lanes[0]);
  second.Store(lanes[1]);
  float runner_up = kLowestLogit;
  bool seen_best = false;
  for (const auto& row : lanes) {
    for (const float x : row) {
      if (x == best && !seen_best) {
        seen_best = true;
      } else if (x > runner_up) {
        runner_up = x;
      }
    }
  }
  int64_t at = best_block;
  while (at + 1 < n && logits[at] != best) {
    ++at;
  }
  *top1 = best;
  *top2 = runner_up;
  *argmax = at;
}

template <class F32>
LogitStats ComputeLogitStats(const float* logits, int64_t n) {
  LogitStats stats;
  float top2 = 0;
  int64_t argmax = 0;
  TopTwo<F32>(logits, n, &stats.max_logit, &top2, &argmax);
  stats.argmax = static_cast<uint32_t>(argmax);
  stats.margin = n > 1 ? stats.max_logit - top2 : 0.0F;
  const F32 max = F32::Set(stats.max_logit);
  double sum = 0;       // of e^d, d = logit - max
  double weighted = 0;  // of e^d * d
  for (int64_t begin = 0; begin < n; begin += kLogitBlock) {
    const int64_t end = n - begin < kLogitBlock ? n : begin + kLogitBlock;
    F32 block_sum = F32::Set(0.0F);
    F32 block_weighted = F32::Set(0.0F);
    int64_t i = begin;
    for (; i + F32::kLanes <= end; i += F32::kLanes) {
      const F32 d = F32::Load(logits + i) - max;
      const F32 e = Exp(d);
      block_sum = block_sum + e;
      block_weighted = Fma(e, d, block_weighted);
    }
    sum += static_cast<double>(ReduceAdd(block_sum));
    weighted += static_cast<double>(ReduceAdd(block_weighted));
    for (; i < end; ++i) {
      const double d = static_cast<double>(logits[i]) - static_cast<double>(stats.max_logit);
      const double e = __builtin_exp(d);
      sum += e;
      weighted += e * d;
    }
  }
  const double log_sum = __builtin_log(sum);
  const double entropy = log_sum - weighted / sum;
  stats.log_sum_exp = static_cast<float>(static_cast<double>(stats.max_logit) + log_sum);
  stats.entropy_nats = static_cast<float>(entropy > 0 ? entropy : 0.0);
  stats.top1_probability = static_cast<float>(1.0 / sum);
  return stats;
}

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_LOGIT_STATS_H_
