#include "executor/device_bench.h"

#ifdef FLEXQUANT_HAVE_CUDA
#include "executor/cuda/cuda_bench.h"
#endif

namespace flexquant::executor {

absl::StatusOr<DeviceBenchResult> RunDeviceBench(const DeviceBenchOptions& options,
                                                 const std::function<absl::Status(int, int)>& progress) {
#ifdef FLEXQUANT_HAVE_CUDA
  return RunCudaBench(options, progress);
#else
  (void)options;
  (void)progress;
  return absl::UnimplementedError("this build has no GPU executor; build with -DFLEXQUANT_CUDA=ON");
#endif
}

}  // namespace flexquant::executor
