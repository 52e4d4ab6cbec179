#ifndef FLEXQUANT_TOOLS_SIMULATE_SIMULATION_REPORT_H_
#define FLEXQUANT_TOOLS_SIMULATE_SIMULATION_REPORT_H_

#include <vector>

#include "nlohmann/json.hpp"
#include "tools/simulate/simulation.h"

namespace flexquant::simulate {

// The times that an answer has to keep to be counted as good, in ms; 0 = any.
struct GoodAnswer {
  double max_ttft_ms = 0;
  double max_tpot_ms = 0;
};

// {"p50", "p90", "p99", "max"} of values of 0 and more; others are left out.
nlohmann::ordered_json PercentilesOf(std::vector<float> values);

// All that a simulation found. `each_executor`: with a list of the executors.
nlohmann::ordered_json ReportOf(const SimulationResult& result, const GoodAnswer& good, bool each_executor);

}  // namespace flexquant::simulate

#endif  // FLEXQUANT_TOOLS_SIMULATE_SIMULATION_REPORT_H_
