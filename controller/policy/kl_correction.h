#ifndef FLEXQUANT_CONTROLLER_POLICY_KL_CORRECTION_H_
#define FLEXQUANT_CONTROLLER_POLICY_KL_CORRECTION_H_

#include <mutex>

namespace flexquant::controller {

// How much larger measured KL is than the precision requirement model expects, learned slowly from all audits of a
// controller. Never below 1: an audit leaves out what the keys and values of earlier positions cost, which the model
// includes, so it can show that too little is expected but not that too much is. Thread-safe.
class KlCorrection {
 public:
  static constexpr double kMax = 4;
  // Audits that the belief in the model weighs as much as.
  static constexpr double kPriorAudits = 64;
  // Weight of an audit that so many others followed: 1/e.
  static constexpr double kMemoryAudits = 1024;

  // An audited token: the model's own prediction and the measurement, in nats.
  void Add(double predicted_kl, double measured_kl);
  // In [1, kMax], to multiply predictions by.
  double factor() const;

 private:
  mutable std::mutex mutex_;
  double audits_ = 0;
  double predicted_ = 0;
  double measured_ = 0;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_POLICY_KL_CORRECTION_H_
