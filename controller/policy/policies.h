#ifndef FLEXQUANT_CONTROLLER_POLICY_POLICIES_H_
#define FLEXQUANT_CONTROLLER_POLICY_POLICIES_H_

// The policies of precision.proto. Parameters are in force and in range: the factory has checked them.

#include <cstdint>
#include <string>
#include <utility>

#include "controller/policy/ladder.h"
#include "controller/policy/precision_policy.h"

namespace flexquant::controller {

// The same plan for every token: `fixed_bits`, `named_plan` and `layer_group_plan`.
class StaticPolicy : public PrecisionPolicy {
 public:
  // `name` is "fixed" or "plan".
  StaticPolicy(PrecisionPlan plan, std::string name) : plan_(std::move(plan)), name_(std::move(name)) {}

  const PrecisionPlan& Next(uint32_t /*answer_index*/) override { return plan_; }
  absl::string_view name() const override { return name_; }

 private:
  const PrecisionPlan plan_;
  const std::string name_;
};

// Entropy-driven. PPLE is the exponentially weighted mean of the tokens' entropies (it starts at the first one). The
// wanted level is proportional to the larger of PPLE and the newest entropy: 0 at 0 nats, the top at
// `entropy_high_nats` and above. The level moves to the nearest level once the wanted one lies more than
// `hysteresis_levels` away: up at once, down one level a token. Until the first signal it is the top level.
class DynamicPolicy : public PrecisionPolicy {
 public:
  struct Params {
    double pple_weight = 0.3;
    double entropy_high_nats = 2.0;
    double hysteresis_levels = 0.5;
  };
  DynamicPolicy(Ladder ladder, const Params& params);

  void Observe(const TokenSignals& signals) override;
  const PrecisionPlan& Next(uint32_t answer_index) override;
  absl::string_view name() const override { return "dynamic"; }

  int level() const { return level_; }
  double pple_nats() const { return pple_nats_; }

 private:
  const Ladder ladder_;
  const Params params_;
  int level_;
  double pple_nats_ = -1;  // < 0 = no token yet
};

// Control: token i draws its level from (seed, i), uniformly.
class RandomPolicy : public PrecisionPolicy {
 public:
  RandomPolicy(Ladder ladder, uint64_t seed) : ladder_(std::move(ladder)), seed_(seed) {}

  const PrecisionPlan& Next(uint32_t answer_index) override;
  absl::string_view name() const override { return "random"; }

 private:
  const Ladder ladder_;
  const uint64_t seed_;
};

// Control: progressive lowering; one level less every `tokens_per_level` (>= 1) tokens of the answer.
class PositionPolicy : public PrecisionPolicy {
 public:
  PositionPolicy(Ladder ladder, uint32_t tokens_per_level)
      : ladder_(std::move(ladder)), tokens_per_level_(tokens_per_level) {}

  const PrecisionPlan& Next(uint32_t answer_index) override;
  absl::string_view name() const override { return "position"; }

 private:
  const Ladder ladder_;
  const uint32_t tokens_per_level_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_POLICY_POLICIES_H_
