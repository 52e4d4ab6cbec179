#ifndef FLEXQUANT_TOOLS_SIMULATE_SIMULATED_EXECUTOR_H_
#define FLEXQUANT_TOOLS_SIMULATE_SIMULATED_EXECUTOR_H_

#include <deque>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "controller/executor_link.h"
#include "controller/layer_groups.h"
#include "controller/step.h"
#include "tools/simulate/cost_model.h"

namespace flexquant::simulate {

// An executor that computes nothing: the result of a step has arrived when a cost model says that it would have. Steps
// are computed one after the other.
class SimulatedExecutor final : public controller::ExecutorLink {
 public:
  // `now` is the simulation's clock; `arrives(at)` is told of each result when its step is sent. Both must outlive
  // this, `groups` too. A message takes half of `round_trip`.
  SimulatedExecutor(std::string address, const CostModel& cost, const controller::LayerGroups& groups,
                    absl::Duration round_trip, absl::Time window_end, const absl::Time& now,
                    std::function<void(absl::Time at)> arrives);

  const std::string& address() const override { return address_; }
  absl::Status StreamStatus() const override { return absl::OkStatus(); }
  bool draining() const override { return false; }
  uint64_t SendStep(const std::vector<controller::SequenceStep>& sequences) override;
  void SendRelease(const std::vector<uint64_t>& /*sequence_ids*/) override {}
  std::vector<controller::StepResult> TakeResults() override;

  uint64_t steps() const { return last_step_id_; }
  // Sequences, those that came back included.
  uint64_t started() const { return started_; }
  // Time that it has computed, before `window_end`.
  absl::Duration busy() const { return busy_; }

 private:
  const std::string address_;
  const CostModel cost_;
  const controller::LayerGroups& groups_;
  const absl::Duration one_way_;
  const absl::Time window_end_;
  const absl::Time& now_;
  const std::function<void(absl::Time)> arrives_;
  uint64_t last_step_id_ = 0;
  uint64_t started_ = 0;
  absl::Time free_at_ = absl::InfinitePast();
  absl::Duration busy_;
  std::deque<std::pair<absl::Time, controller::StepResult>> arriving_;
};

}  // namespace flexquant::simulate

#endif  // FLEXQUANT_TOOLS_SIMULATE_SIMULATED_EXECUTOR_H_
