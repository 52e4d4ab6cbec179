#ifndef FLEXQUANT_CONTROLLER_PLAN_IDS_H_
#define FLEXQUANT_CONTROLLER_PLAN_IDS_H_

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/precision.h"

namespace flexquant::controller {

// Ids of the plans of one executor stream, given on first use. A full table gives the id of a plan that the current
// step does not use to the new one. Not thread-safe.
class PlanIds {
 public:
  // `capacity`: plans in the table; must be at least the number of sequences in a step.
  explicit PlanIds(uint32_t capacity) : capacity_(capacity) {}

  // Begins a step: ids looked up from now on stay until the next BeginStep.
  void BeginStep() { ++step_; }

  struct Lookup {
    uint32_t id = 0;
    bool added = false;  // the executor must be told before the step
  };
  Lookup Get(const PrecisionPlan& plan);

 private:
  struct Entry {
    std::string key;
    uint64_t last_step = 0;
  };

  uint32_t TakeId();

  uint32_t capacity_;
  uint64_t step_ = 0;
  uint32_t next_evicted_ = 0;
  std::vector<Entry> entries_;
  std::unordered_map<std::string, uint32_t> ids_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_PLAN_IDS_H_
