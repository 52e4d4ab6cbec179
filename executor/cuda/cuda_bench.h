#ifndef FLEXQUANT_EXECUTOR_CUDA_CUDA_BENCH_H_
#define FLEXQUANT_EXECUTOR_CUDA_CUDA_BENCH_H_

#include <algorithm>
#include <memory>
#include <vector>

#include "executor/decode_stepper.h"
#include "executor/device_bench.h"

namespace flexquant::executor {

// Of times in ms, at least one.
inline StepTime SummaryOf(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back()};
}

// RunDeviceBench of a build with CUDA.
absl::StatusOr<DeviceBenchResult> RunCudaBench(const DeviceBenchOptions& options,
                                               const std::function<absl::Status(int, int)>& progress);
// With options.tensor_parallel > 1: decode steps of ranks on the GPUs from options.device on.
absl::StatusOr<DeviceBenchResult> RunCudaRanksBench(const DeviceBenchOptions& options,
                                                    const std::function<absl::Status(int, int)>& progress);
// RunLoadBench of a build with CUDA.
absl::StatusOr<LoadBenchResult> RunCudaLoadBench(const LoadBenchOptions& options,
                                                 const std::function<absl::Status(uint64_t, uint64_t)>& progress);
// MakeDeviceStepper of a build with CUDA.
absl::StatusOr<std::unique_ptr<DecodeStepper>> MakeCudaStepper(const DeviceBenchOptions& options);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CUDA_CUDA_BENCH_H_
