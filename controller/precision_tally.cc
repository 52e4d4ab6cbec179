#include "controller/precision_tally.h"

#include <cmath>

namespace flexquant::controller {
namespace {

constexpr double kNormal95 = 1.959964;  // standard deviations to each side of 95 %

int NearestPrecision(double bits) {
  int nearest = kReferencePrecision;
  for (const int precision : kPrecisions) {
    if (std::abs(precision - bits) < std::abs(nearest - bits)) {
      nearest = precision;
    }
  }
  return nearest;
}

}  // namespace

PrecisionTally::PrecisionTally(const LayerGroups& groups)
    : groups_(&groups), top_bytes_(groups.BytesRead(PrecisionPlan::Uniform(kTopPrecision, groups.count()))) {}

double PrecisionTally::Add(const PrecisionPlan& plan, std::optional<double> predicted_kl) {
  if (!(plan == last_plan_)) {
    use_.plan_changes += tokens_ > 0 ? 1 : 0;
    last_plan_ = plan;
    last_bits_ = groups_->MeanBits(plan);
    last_bytes_ = groups_->BytesRead(plan);
  }
  ++tokens_;
  bits_sum_ += last_bits_;
  if (predicted_kl.has_value()) {
    kl_sum_ = kl_sum_.value_or(0) + *predicted_kl;
  }
  use_.weight_bytes_read += last_bytes_;
  use_.weight_bytes_top += top_bytes_;
  ++use_.histogram[NearestPrecision(last_bits_)];
  return last_bits_;
}

void PrecisionTally::AddAudit(double kl) {
  ++audits_;
  const double difference = kl - audit_mean_;
  audit_mean_ += difference / audits_;
  audit_squares_ += difference * (kl - audit_mean_);
}

PrecisionUse PrecisionTally::Report() const {
  PrecisionUse use = use_;
  use.mean_bits = tokens_ > 0 ? bits_sum_ / static_cast<double>(tokens_) : 0;
  if (audits_ > 0) {
    use.audit = AuditSummary{audits_, audit_mean_, std::nullopt};
  }
  if (audits_ > 1) {
    use.audit->margin_kl = kNormal95 * std::sqrt(audit_squares_ / (audits_ - 1) / audits_);
  }
  if (kl_sum_.has_value()) {
    use.predicted_mean_kl = *kl_sum_ / static_cast<double>(tokens_);
  }
  return use;
}

}  // namespace flexquant::controller
