#include "controller/step_composer.h"

#include <algorithm>

namespace flexquant::controller {
namespace {

struct Member {
  Sequence* sequence;
  SequenceStep step;
};

void RaiseSharedPlans(std::vector<Member>& members) {
  PrecisionPlan highest;
  for (const Member& member : members) {
    if (member.sequence->isolated()) {
      continue;
    }
    highest.bits.resize(member.step.plan.bits.size(), 0);
    for (size_t group = 0; group < highest.bits.size(); ++group) {
      highest.bits[group] = std::max(highest.bits[group], member.step.plan.bits[group]);
    }
  }
  for (Member& member : members) {
    if (!member.sequence->isolated()) {
      member.step.plan = highest;
    }
  }
}

}  // namespace

std::vector<SequenceStep> ComposeStep(const std::vector<std::unique_ptr<Sequence>>& running, const StepLimits& limits) {
  std::vector<Member> members;
  uint32_t tokens = 0;
  const auto has_room = [&] { return members.size() < limits.max_sequences && tokens < limits.max_step_tokens; };
  for (const auto& sequence : running) {
    if (has_room() && sequence->can_decode()) {
      members.push_back({sequence.get(), sequence->NextDecode(limits.block_tokens)});
      ++tokens;
    }
  }
  uint32_t prefill_left = limits.prefill_chunk_tokens;
  for (const auto& sequence : running) {
    const uint32_t remaining = sequence->prefill_remaining();
    if (has_room() && remaining > 0 && prefill_left > 0) {
      const uint32_t chunk = std::min({remaining, prefill_left, limits.max_step_tokens - tokens});
      members.push_back({sequence.get(), sequence->NextPrefill(chunk, limits.block_tokens)});
      tokens += chunk;
      prefill_left -= chunk;
    }
  }
  RaiseSharedPlans(members);
  std::vector<SequenceStep> steps;
  steps.reserve(members.size());
  for (Member& member : members) {
    member.sequence->Sent(member.step);
    steps.push_back(std::move(member.step));
  }
  return steps;
}

}  // namespace flexquant::controller
