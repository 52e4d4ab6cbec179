#include "controller/policy/shared_level.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "common/calibration/level_chooser.h"
#include "common/check.h"
#include "controller/policy/calibrated_ladder.h"

namespace flexquant::controller {
namespace {

void Raise(PrecisionPlan& plan, const PrecisionPlan& floor) {
  for (size_t group = 0; group < floor.bits.size(); ++group) {
    plan.bits[group] = std::max(plan.bits[group], floor.bits[group]);
  }
}

}  // namespace

PrecisionPlan SharedPlan(absl::Span<const LevelDemand> demands, const PrecisionPlan& floor, const WorkTimes& work_times,
                         uint32_t floor_tokens) {
  FQ_CHECK(!demands.empty());
  const CalibratedLadder& ladder = *demands[0].ladder;
  int first = 0;
  int last = 0;
  int current = demands[0].chooser->current();
  for (const LevelDemand& demand : demands) {
    first = std::max(first, demand.chooser->first());
    last = std::max(last, demand.chooser->last());
    // Hysteresis is for sequences that ran at one level so far.
    current = demand.chooser->current() == current ? current : -1;
  }
  const auto sequences = static_cast<double>(demands.size());
  const double scale =
      sequences * ladder.bytes.back() / work_times.Of({ladder.bytes.back(), sequences * ladder.products.back()});
  std::vector<double> costs(ladder.plans.size());
  for (int level = first; level <= last; ++level) {
    double& cost = costs[static_cast<size_t>(level)];
    StepWork work = {ladder.bytes[static_cast<size_t>(level)], sequences * ladder.products[static_cast<size_t>(level)]};
    int used = level;
    if (!floor.bits.empty()) {
      PrecisionPlan plan = ladder.plans[static_cast<size_t>(level)];
      Raise(plan, floor);
      work = {static_cast<double>(ladder.groups->BytesRead(plan)),
              (sequences + floor_tokens) * ladder.groups->Products(plan)};
      used = ladder.LevelBelow(plan);
    }
    cost = scale * work_times.Of(work);
    for (const LevelDemand& demand : demands) {
      cost += demand.chooser->Penalty(used);
    }
  }
  PrecisionPlan plan = ladder.plans[static_cast<size_t>(LevelChooser::Cheapest(costs, first, last, current))];
  Raise(plan, floor);
  return plan;
}

}  // namespace flexquant::controller
