#include "controller/policy/kl_correction.h"

#include <algorithm>

namespace flexquant::controller {

void KlCorrection::Add(double predicted_kl, double measured_kl) {
  constexpr double kKeep = 1 - 1 / kMemoryAudits;
  const std::lock_guard lock(mutex_);
  audits_ = kKeep * audits_ + 1;
  predicted_ = kKeep * predicted_ + predicted_kl;
  measured_ = kKeep * measured_ + measured_kl;
}

double KlCorrection::factor() const {
  const std::lock_guard lock(mutex_);
  if (!(predicted_ > 0)) {
    return 1;
  }
  const double prior = kPriorAudits * predicted_ / audits_;
  return std::clamp((prior + measured_) / (prior + predicted_), 1.0, kMax);
}

}  // namespace flexquant::controller
