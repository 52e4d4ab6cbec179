#include "controller/policy/policies.h"

#include <algorithm>
#include <cmath>

#include "controller/mix_bits.h"

namespace flexquant::controller {
DynamicPolicy::DynamicPolicy(Ladder ladder, const Params& params)
    : ladder_(std::move(ladder)), params_(params), level_(ladder_.top_level()) {}

void DynamicPolicy::Observe(const TokenSignals& signals) {
  // A broken signal counts as the most uncertain one: precision is never lowered on the strength of a NaN.
  const double entropy =
      std::isfinite(signals.entropy_nats) ? std::max(signals.entropy_nats, 0.0) : params_.entropy_high_nats;
  pple_nats_ = pple_nats_ < 0 ? entropy : params_.pple_weight * entropy + (1 - params_.pple_weight) * pple_nats_;
  const double share = std::min(std::max(pple_nats_, entropy) / params_.entropy_high_nats, 1.0);
  const double wanted = share * ladder_.top_level();
  if (std::abs(wanted - level_) <= params_.hysteresis_levels) {
    return;
  }
  const int nearest = static_cast<int>(std::lround(wanted));
  level_ = nearest > level_ ? nearest : std::max(nearest, level_ - 1);
}

const PrecisionPlan& DynamicPolicy::Next(uint32_t /*answer_index*/) {
  return ladder_.levels[static_cast<size_t>(level_)];
}

const PrecisionPlan& RandomPolicy::Next(uint32_t answer_index) {
  const uint64_t draw = MixBits(MixBits(seed_) ^ answer_index);
  return ladder_.levels[static_cast<size_t>(draw % ladder_.levels.size())];
}

const PrecisionPlan& PositionPolicy::Next(uint32_t answer_index) {
  const uint32_t top = static_cast<uint32_t>(ladder_.top_level());
  const uint32_t lowered = std::min(top, answer_index / tokens_per_level_);
  return ladder_.levels[top - lowered];
}

}  // namespace flexquant::controller
