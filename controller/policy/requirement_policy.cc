#include "controller/policy/requirement_policy.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace flexquant::controller {

RequirementPolicy::RequirementPolicy(std::shared_ptr<const CalibratedLadder> ladder,
                                     std::shared_ptr<KlCorrection> correction, int first, int last,
                                     const PrecisionGoal& goal, std::string name)
    : ladder_(std::move(ladder)),
      correction_(std::move(correction)),
      factor_(correction_->factor()),
      name_(std::move(name)),
      chooser_(ladder_->requirement, ladder_->bytes, first, last, goal, ladder_->hysteresis),
      demand_{&chooser_, ladder_.get()},
      kl_(ladder_->plans.size()) {}

const PrecisionPlan& RequirementPolicy::Next(uint32_t /*answer_index*/) {
  if (!history_.empty()) {
    ladder_->requirement.model.Predict(history_.Features(), absl::MakeSpan(kl_));
    for (double& kl : kl_) {
      kl *= factor_;
    }
    chooser_.SetNext(kl_);
  }
  return ladder_->plans[static_cast<size_t>(chooser_.Choose())];
}

std::optional<double> RequirementPolicy::Charge(const PrecisionPlan& plan) {
  // A plan that is no level costs at most what the highest level below it does.
  const int level = std::max(ladder_->LevelBelow(plan), 0);
  const double kl = chooser_.predicted_kl(level);
  chooser_.Charge(level);
  return kl + backend_kl_;
}

void RequirementPolicy::SetBackendKl(double nats) {
  backend_kl_ = nats;
  chooser_.ReserveKl(backend_kl_);
}

void RequirementPolicy::Audited(double predicted_kl, double measured_kl) {
  correction_->Add((predicted_kl - backend_kl_) / factor_, measured_kl - backend_kl_);
}

}  // namespace flexquant::controller
