#include "executor/divergence.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "common/check.h"

namespace flexquant::executor {

double KlDivergence(absl::Span<const float> p_logits, absl::Span<const float> q_logits) {
  FQ_CHECK(!p_logits.empty() && p_logits.size() == q_logits.size());
  const auto p_max = static_cast<double>(*std::max_element(p_logits.begin(), p_logits.end()));
  const auto q_max = static_cast<double>(*std::max_element(q_logits.begin(), q_logits.end()));
  double p_sum = 0;
  double q_sum = 0;
  double weighted = 0;
  for (size_t i = 0; i < p_logits.size(); ++i) {
    const double p = static_cast<double>(p_logits[i]) - p_max;
    const double q = static_cast<double>(q_logits[i]) - q_max;
    const double weight = std::exp(p);
    p_sum += weight;
    q_sum += std::exp(q);
    weighted += weight * (p - q);
  }
  return std::max(0.0, weighted / p_sum - std::log(p_sum) + std::log(q_sum));
}

}  // namespace flexquant::executor
