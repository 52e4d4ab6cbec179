#ifndef FLEXQUANT_CONTROLLER_POLICY_REQUIREMENT_POLICY_H_
#define FLEXQUANT_CONTROLLER_POLICY_REQUIREMENT_POLICY_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/calibration/level_chooser.h"
#include "common/calibration/signal_history.h"
#include "controller/policy/calibrated_ladder.h"
#include "controller/policy/kl_correction.h"
#include "controller/policy/precision_policy.h"

namespace flexquant::controller {

// `max_mean_kl` and `target_mean_bits`: each token at the level that costs least when bytes are weighed against the KL
// that the precision requirement model expects of it. Until the first signal it is the highest level allowed.
class RequirementPolicy : public PrecisionPolicy {
 public:
  // Levels from `first` to `last` only. `correction` is what audits teach and are taught by; the factor at this moment
  // holds for the whole answer. `name` as in PrecisionReport.policy.
  RequirementPolicy(std::shared_ptr<const CalibratedLadder> ladder, std::shared_ptr<KlCorrection> correction, int first,
                    int last, const PrecisionGoal& goal, std::string name);

  void Observe(const TokenSignals& signals) override { history_.Observe(signals); }
  const PrecisionPlan& Next(uint32_t answer_index) override;
  std::optional<double> Charge(const PrecisionPlan& plan) override;
  void Audited(double predicted_kl, double measured_kl) override;
  const LevelDemand* demand() const override { return &demand_; }
  void SetBackend(const BackendSettings& settings) override { SetBackendKl(ladder_->backend_loss.Of(settings)); }
  void SetBackendKl(double nats) override;
  double backend_kl() const override { return backend_kl_; }
  double kl_factor() const override { return factor_; }
  void SetKlFactor(double factor) override { factor_ = factor; }
  absl::string_view name() const override { return name_; }

 private:
  const std::shared_ptr<const CalibratedLadder> ladder_;
  const std::shared_ptr<KlCorrection> correction_;
  double factor_;
  double backend_kl_ = 0;
  const std::string name_;
  LevelChooser chooser_;
  const LevelDemand demand_;
  SignalHistory history_;
  std::vector<double> kl_;  // [levels]
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_POLICY_REQUIREMENT_POLICY_H_
