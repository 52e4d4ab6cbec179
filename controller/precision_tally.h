#ifndef FLEXQUANT_CONTROLLER_PRECISION_TALLY_H_
#define FLEXQUANT_CONTROLLER_PRECISION_TALLY_H_

#include <optional>

#include "common/precision.h"
#include "controller/generation.h"
#include "controller/layer_groups.h"

namespace flexquant::controller {

// Adds up the precision an answer really used. One an answer; not thread-safe.
class PrecisionTally {
 public:
  // `groups` must outlive this.
  explicit PrecisionTally(const LayerGroups& groups);

  // Counts one answer token computed at `plan`, and the KL predicted of it, if any is; returns the plan's mean bits.
  double Add(const PrecisionPlan& plan, std::optional<double> predicted_kl);
  // The KL measured of an answer token, in nats.
  void AddAudit(double kl);
  // Everything but `policy`, `calibrated` and `target`.
  PrecisionUse Report() const;

 private:
  const LayerGroups* groups_;
  uint64_t top_bytes_;
  PrecisionPlan last_plan_;
  double last_bits_ = 0;
  uint64_t last_bytes_ = 0;
  uint64_t tokens_ = 0;
  double bits_sum_ = 0;
  std::optional<double> kl_sum_;
  uint32_t audits_ = 0;
  double audit_mean_ = 0;
  double audit_squares_ = 0;  // sum of squared differences from the mean
  PrecisionUse use_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_PRECISION_TALLY_H_
