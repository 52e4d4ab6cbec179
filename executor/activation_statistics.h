#ifndef FLEXQUANT_EXECUTOR_ACTIVATION_STATISTICS_H_
#define FLEXQUANT_EXECUTOR_ACTIVATION_STATISTICS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/store/activation_statistics.h"
#include "common/store/model_store.h"

namespace flexquant::executor {

struct ActivationStatisticsOptions {
  int num_threads = 0;  // as in CpuRunnerOptions
  // Called after each window with those done and in all. May be empty.
  std::function<void(uint64_t done, uint64_t total)> progress;
  // Polled between windows; true ends with CANCELLED. May be empty.
  std::function<bool()> cancelled;
};

// Runs the unquantised model over `windows` of tokens and sums up what enters each layer group. Deterministic, whatever
// the number of threads. FAILED_PRECONDITION if `store` has no reference, INVALID_ARGUMENT if there are no windows;
// errors of the runner. Memory: that of a CpuModelRunner whose steps are the longest window.
absl::StatusOr<ActivationStatistics> MeasureActivations(const ModelStore& store,
                                                        const std::vector<std::vector<uint32_t>>& windows,
                                                        const ActivationStatisticsOptions& options);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_ACTIVATION_STATISTICS_H_
