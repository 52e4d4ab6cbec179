#include "controller/step_times.h"

#include <algorithm>

namespace flexquant::controller {
namespace {

constexpr double kMemory = 0.99;  // what a step still counts when the next one has come
// A step of so many tokens takes at least twice a step of one.
constexpr double kMostFreeTokens = 1024;
constexpr double kLeastSeconds = 1e-6;

}  // namespace

void StepTimes::Add(uint64_t tokens, absl::Duration time) {
  const auto size = static_cast<double>(tokens);
  const double seconds = std::max(absl::ToDoubleSeconds(time), kLeastSeconds);
  weight_ = weight_ * kMemory + 1;
  const double share = 1 / weight_;
  const double more_tokens = size - mean_tokens_;
  const double more_seconds = seconds - mean_seconds_;
  mean_tokens_ += share * more_tokens;
  mean_seconds_ += share * more_seconds;
  var_tokens_ = (1 - share) * (var_tokens_ + share * more_tokens * more_tokens);
  covariance_ = (1 - share) * (covariance_ + share * more_tokens * more_seconds);
}

StepCost StepTimes::cost() const {
  StepCost cost;
  // Sizes that hardly differ say nothing of a token's share: then it is small, not noise.
  cost.token = covariance_ / (var_tokens_ + 1);
  cost.token = std::clamp(cost.token, mean_seconds_ / (kMostFreeTokens + mean_tokens_),
                          mean_seconds_ / std::max(mean_tokens_, 1.0));
  cost.base = std::max(mean_seconds_ - cost.token * mean_tokens_, 0.0);
  return cost;
}

}  // namespace flexquant::controller
