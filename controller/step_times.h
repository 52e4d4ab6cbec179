#ifndef FLEXQUANT_CONTROLLER_STEP_TIMES_H_
#define FLEXQUANT_CONTROLLER_STEP_TIMES_H_

#include <cstdint>

#include "absl/time/time.h"

namespace flexquant::controller {

// What a step takes on one executor: `base` + `token` for each of its tokens, of prompts and answers alike. Seconds.
struct StepCost {
  double base = 0;
  double token = 0;

  double Seconds(double tokens) const { return base + token * tokens; }
};

// Learns an executor's StepCost from its steps: least squares in which the last hundred or so count. Not thread-safe.
class StepTimes {
 public:
  void Add(uint64_t tokens, absl::Duration time);
  bool empty() const { return weight_ == 0; }
  // Only if not empty. `token` is never nothing, not even if steps of all sizes took the same time.
  StepCost cost() const;

 private:
  double weight_ = 0;
  double mean_tokens_ = 0;
  double mean_seconds_ = 0;
  double var_tokens_ = 0;
  double covariance_ = 0;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_STEP_TIMES_H_
