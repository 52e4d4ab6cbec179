#ifndef FLEXQUANT_EXECUTOR_CUDA_CUDA_BENCH_H_
#define FLEXQUANT_EXECUTOR_CUDA_CUDA_BENCH_H_

#include "executor/device_bench.h"

namespace flexquant::executor {

// RunDeviceBench of a build with CUDA.
absl::StatusOr<DeviceBenchResult> RunCudaBench(const DeviceBenchOptions& options,
                                               const std::function<absl::Status(int, int)>& progress);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CUDA_CUDA_BENCH_H_
