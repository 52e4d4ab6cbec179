#include "executor/device_bench.h"

#ifdef FLEXQUANT_HAVE_CUDA
#include "executor/cuda/cuda_bench.h"
#endif

namespace flexquant::executor {
#ifndef FLEXQUANT_HAVE_CUDA
absl::Status NoCudaError() {
  return absl::UnimplementedError("this build has no GPU executor; build with -DFLEXQUANT_CUDA=ON");
}
#endif

const std::vector<std::string>& DeviceBenchPlans() {
  static const auto* plans = new std::vector<std::string>{"3", "4", "5", "6", "8", "mixed", "isolated"};
  return *plans;
}

absl::StatusOr<DeviceBenchResult> RunDeviceBench(const DeviceBenchOptions& options,
                                                 const std::function<absl::Status(int, int)>& progress) {
#ifdef FLEXQUANT_HAVE_CUDA
  return RunCudaBench(options, progress);
#else
  (void)options;
  (void)progress;
  return NoCudaError();
#endif
}

absl::StatusOr<LoadBenchResult> RunLoadBench(const LoadBenchOptions& options,
                                             const std::function<absl::Status(uint64_t, uint64_t)>& progress) {
#ifdef FLEXQUANT_HAVE_CUDA
  return RunCudaLoadBench(options, progress);
#else
  (void)options;
  (void)progress;
  return NoCudaError();
#endif
}

}  // namespace flexquant::executor
