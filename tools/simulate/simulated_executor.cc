#include "tools/simulate/simulated_executor.h"

#include <algorithm>
#include <cmath>

namespace flexquant::simulate {
namespace {

// Signals that make policies move, as those of text do.
controller::SampledToken TokenAt(uint32_t position) {
  const double entropy = 1.5 + 1.5 * std::sin(0.7 * position);
  controller::SampledToken token;
  token.id = 100 + position % 100;
  token.signals = {entropy, std::exp(-entropy), 5 * std::exp(-entropy)};
  token.logprob = -entropy;
  return token;
}

}  // namespace

SimulatedExecutor::SimulatedExecutor(std::string address, const CostModel& cost, const controller::LayerGroups& groups,
                                     absl::Duration round_trip, absl::Time window_end, const absl::Time& now,
                                     std::function<void(absl::Time at)> arrives)
    : address_(std::move(address)),
      cost_(cost),
      groups_(groups),
      one_way_(round_trip / 2),
      window_end_(window_end),
      now_(now),
      arrives_(std::move(arrives)) {}

uint64_t SimulatedExecutor::SendStep(const std::vector<controller::SequenceStep>& sequences) {
  const absl::Time received = now_ + one_way_;
  const absl::Time begun = std::max(received, free_at_);
  controller::StepResult result;
  result.step_id = ++last_step_id_;
  result.queue_time = begun - received;
  result.compute_time = cost_.Time(ShapeOf(sequences, groups_));
  free_at_ = begun + result.compute_time;
  busy_ += std::max(std::min(free_at_, window_end_) - begun, absl::ZeroDuration());
  for (const controller::SequenceStep& part : sequences) {
    controller::SequenceResult& sequence = result.sequences.emplace_back();
    sequence.sequence_id = part.sequence_id;
    started_ += part.start.has_value() ? 1 : 0;
    if (part.sample) {
      sequence.token = TokenAt(part.position);
    }
  }
  const absl::Time at = free_at_ + one_way_;
  arriving_.emplace_back(at, std::move(result));
  arrives_(at);
  return last_step_id_;
}

std::vector<controller::StepResult> SimulatedExecutor::TakeResults() {
  std::vector<controller::StepResult> results;
  for (; !arriving_.empty() && arriving_.front().first <= now_; arriving_.pop_front()) {
    results.push_back(std::move(arriving_.front().second));
  }
  return results;
}

}  // namespace flexquant::simulate
