#ifndef FLEXQUANT_TESTS_EXECUTOR_CUDA_RESCORED_H_
#define FLEXQUANT_TESTS_EXECUTOR_CUDA_RESCORED_H_

// What rescoring makes of a runner's logits (common/rescoring.h).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/rescoring.h"
#include "executor/model_runner.h"
#include "kernels/reference/reference.h"

namespace flexquant::executor {

// Logits of some positions of the same layers: `plain` with a head below 8 bits that is not rescored, `top` with one of
// 8 bits. The likeliest tokens of `plain` must have `top`'s logits, up to the rounding of activations to 15 bits, and
// all others those of `plain`.
inline void ExpectRescored(const std::vector<float>& found, const std::vector<float>& plain,
                           const std::vector<float>& top, int64_t vocab) {
  ASSERT_EQ(found.size(), plain.size());
  ASSERT_EQ(found.size(), top.size());
  double from_top = 0;
  double of_plain = 0;
  for (size_t begin = 0; begin < found.size(); begin += static_cast<size_t>(vocab)) {
    SCOPED_TRACE(::testing::Message() << "position " << begin / static_cast<size_t>(vocab));
    const auto chosen = reference::Likeliest(plain.data() + begin, vocab, RescoredRows(vocab));
    ASSERT_FALSE(chosen.empty());
    double largest = 0;
    for (int64_t i = 0; i < vocab; ++i) {
      largest = std::max(largest, std::fabs(static_cast<double>(top[begin + static_cast<size_t>(i)])));
    }
    for (int64_t i = 0; i < vocab; ++i) {
      const size_t at = begin + static_cast<size_t>(i);
      if (!std::binary_search(chosen.begin(), chosen.end(), i)) {
        ASSERT_EQ(found[at], plain[at]) << "token " << i;
        continue;
      }
      ASSERT_NEAR(found[at], top[at], 1e-3 * largest) << "token " << i;
      from_top += std::fabs(static_cast<double>(found[at]) - static_cast<double>(top[at]));
      of_plain += std::fabs(static_cast<double>(plain[at]) - static_cast<double>(top[at]));
    }
  }
  EXPECT_LT(from_top, 0.1 * of_plain) << "rescoring has brought the logits hardly closer to those of 8 bits";
}

// `plan` with this width of the head.
inline PrecisionPlan WithHead(PrecisionPlan plan, int bits) {
  plan.bits.back() = static_cast<uint8_t>(bits);
  return plan;
}

}  // namespace flexquant::executor

#endif  // FLEXQUANT_TESTS_EXECUTOR_CUDA_RESCORED_H_
