#ifndef FLEXQUANT_EXECUTOR_DIVERGENCE_H_
#define FLEXQUANT_EXECUTOR_DIVERGENCE_H_

#include "absl/types/span.h"

namespace flexquant::executor {

// KL(p || q) in nats of the softmax distributions of two logit vectors [vocab] of the same length >= 1, finite. Exact
// to double precision, never below 0.
double KlDivergence(absl::Span<const float> p_logits, absl::Span<const float> q_logits);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_DIVERGENCE_H_
