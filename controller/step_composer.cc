#include "controller/step_composer.h"

#include <algorithm>

#include "controller/policy/shared_level.h"

namespace flexquant::controller {
namespace {

struct Member {
  Sequence* sequence;
  SequenceStep step;
};

void ShareOnePlan(std::vector<Member>& members) {
  PrecisionPlan plan;
  std::vector<LevelDemand> demands;
  for (const Member& member : members) {
    if (member.sequence->isolated()) {
      continue;
    }
    const bool decodes = member.step.token_ids.empty();
    if (const LevelDemand* demand = member.sequence->demand(); decodes && demand != nullptr) {
      demands.push_back(*demand);
      continue;
    }
    plan.bits.resize(member.step.plan.bits.size(), 0);
    for (size_t group = 0; group < plan.bits.size(); ++group) {
      plan.bits[group] = std::max(plan.bits[group], member.step.plan.bits[group]);
    }
  }
  if (demands.size() == 1 && plan.bits.empty()) {
    return;  // one that shares with nobody has its plan
  }
  if (!demands.empty()) {
    plan = SharedPlan(demands, plan);
  }
  for (Member& member : members) {
    if (!member.sequence->isolated()) {
      member.step.plan = plan;
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
      members.back().step.audit = sequence->DrawsAudit(limits.audit_rate);
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
  ShareOnePlan(members);
  std::vector<SequenceStep> steps;
  steps.reserve(members.size());
  for (Member& member : members) {
    member.sequence->Sent(member.step);
    steps.push_back(std::move(member.step));
  }
  return steps;
}

}  // namespace flexquant::controller
