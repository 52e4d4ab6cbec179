#include "controller/plan_ids.h"

#include "common/check.h"

namespace flexquant::controller {

PlanIds::Lookup PlanIds::Get(const PrecisionPlan& plan) {
  std::string key(plan.bits.begin(), plan.bits.end());
  if (const auto found = ids_.find(key); found != ids_.end()) {
    entries_[found->second].last_step = step_;
    return {found->second, false};
  }
  const uint32_t id = TakeId();
  entries_[id] = {key, step_};
  ids_[std::move(key)] = id;
  return {id, true};
}

uint32_t PlanIds::TakeId() {
  if (entries_.size() < capacity_) {
    entries_.emplace_back();
    return static_cast<uint32_t>(entries_.size() - 1);
  }
  for (uint32_t tried = 0; tried < capacity_; ++tried) {
    const uint32_t id = next_evicted_;
    next_evicted_ = (next_evicted_ + 1) % capacity_;
    if (entries_[id].last_step != step_) {
      ids_.erase(entries_[id].key);
      return id;
    }
  }
  FQ_CHECK(!"a step uses more plans than the table holds");
  return 0;
}

}  // namespace flexquant::controller
