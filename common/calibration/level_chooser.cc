#include "common/calibration/level_chooser.h"

#include <algorithm>
#include <cstddef>

#include "common/check.h"

namespace flexquant {
namespace {

// A mean predicted KL that is asked for may differ by this factor from the goal, to either side.
constexpr double kMaxCorrection = 8;
// Of the goal, however much of it is reserved.
constexpr double kLeastShare = 1e-3;

}  // namespace

LevelChooser::LevelChooser(const PrecisionRequirement& requirement, absl::Span<const double> bytes, int first, int last,
                           const PrecisionGoal& goal, double hysteresis)
    : requirement_(requirement),
      bytes_(bytes.begin(), bytes.end()),
      first_(first),
      last_(last),
      whole_target_(goal.target),
      goal_(goal),
      hysteresis_(hysteresis),
      kl_(bytes.size()) {
  FQ_CHECK(0 <= first && first <= last && static_cast<size_t>(last) < bytes.size());
  FQ_CHECK(goal.target > 0);
  // Until something is known, what a token with the features of the fit's mean costs.
  requirement.model.Predict(requirement.model.mean, absl::MakeSpan(kl_));
  lambda_ = Lambda();
}

void LevelChooser::ReserveKl(double nats) {
  if (goal_.kind == PrecisionGoal::Kind::kMeanKl) {
    goal_.target = std::max(whole_target_ - nats, whole_target_ * kLeastShare);
    lambda_ = Lambda();
  }
}

double LevelChooser::Lambda() const {
  const double wanted = goal_.target - overspent_ / kHorizon;
  if (goal_.kind == PrecisionGoal::Kind::kMeanKl) {
    return requirement_.LambdaForKl(std::clamp(wanted, goal_.target / kMaxCorrection, goal_.target * kMaxCorrection));
  }
  return requirement_.LambdaForBytes(std::clamp(wanted, bytes_.front(), bytes_.back()));
}

void LevelChooser::SetNext(absl::Span<const double> predicted_kl) {
  FQ_CHECK(predicted_kl.size() == kl_.size());
  std::copy(predicted_kl.begin(), predicted_kl.end(), kl_.begin());
  known_ = true;
}

int LevelChooser::Choose() const {
  if (!known_) {
    return last_;
  }
  std::vector<double> costs(kl_.size());
  for (int level = first_; level <= last_; ++level) {
    costs[static_cast<size_t>(level)] = bytes_[static_cast<size_t>(level)] + Penalty(level);
  }
  return Cheapest(costs, first_, last_, current_, hysteresis_);
}

double LevelChooser::Penalty(int level) const { return lambda_ * kl_[static_cast<size_t>(std::min(level, last_))]; }

int LevelChooser::Cheapest(absl::Span<const double> costs, int first, int last, int current, double hysteresis) {
  const auto best = static_cast<int>(std::min_element(costs.begin() + first, costs.begin() + last + 1) - costs.begin());
  if (current < first || current > last) {
    return best;
  }
  const double now = costs[static_cast<size_t>(current)];
  return now - costs[static_cast<size_t>(best)] > hysteresis * now ? best : current;
}

void LevelChooser::Charge(int level) {
  const auto used = static_cast<size_t>(level);
  overspent_ += (goal_.kind == PrecisionGoal::Kind::kMeanKl ? kl_[used] : bytes_[used]) - goal_.target;
  current_ = level;
  lambda_ = Lambda();
}

}  // namespace flexquant
