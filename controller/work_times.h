#ifndef FLEXQUANT_CONTROLLER_WORK_TIMES_H_
#define FLEXQUANT_CONTROLLER_WORK_TIMES_H_

#include <vector>

#include "absl/time/time.h"
#include "controller/layer_groups.h"
#include "controller/step.h"

namespace flexquant::controller {

// What a step's time depends on.
struct StepWork {
  double bytes = 0;     // of weights read, each width of a layer group once
  double products = 0;  // weights times rows of int8 activations: two a token at 6 and 8 bits, else one
};

// Of a step: the head counts where a token is sampled. `coarse_prompts`: prompts have one row a token at every width.
StepWork WorkOf(const LayerGroups& groups, const std::vector<SequenceStep>& steps, bool coarse_prompts);

// How long an executor takes for a byte and for a product, learned from its steps. Tells plans apart, which StepTimes,
// that knows only tokens, cannot: on a GPU bytes decide; on a CPU products do as soon as a few sequences decode
// together, and then 6 bits cost as much as 8. Not thread-safe.
class WorkTimes {
 public:
  // A step took so long. Times that cannot be right are ignored.
  void Observe(const StepWork& work, absl::Duration compute_time);

  // Whether enough has been seen to tell one from the other.
  bool known() const { return observed_ >= kMinSteps; }
  // In seconds; before it is known, bytes.
  double Of(const StepWork& work) const {
    return known() ? seconds_per_byte_ * work.bytes + seconds_per_product_ * work.products : work.bytes;
  }

 private:
  static constexpr int kMinSteps = 32;

  int observed_ = 0;  // capped once known
  // Sums over the steps, older ones counting less, of what a fit of relative errors needs: the squares and the product
  // of bytes and products a second, and both themselves.
  double bytes_bytes_ = 0;
  double bytes_products_ = 0;
  double products_products_ = 0;
  double bytes_ = 0;
  double products_ = 0;
  double seconds_per_byte_ = 0;
  double seconds_per_product_ = 0;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_WORK_TIMES_H_
