#ifndef FLEXQUANT_EXECUTOR_CUDA_CUDA_BENCH_KERNELS_H_
#define FLEXQUANT_EXECUTOR_CUDA_CUDA_BENCH_KERNELS_H_

#include <cuda_runtime.h>

#include <functional>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "executor/cuda/launch_observer.h"
#include "executor/device_bench.h"

namespace flexquant::executor {

// Launches all but one place's kernels, as a step does.
class Omission : public LaunchObserver {
 public:
  explicit Omission(std::string kernel) : kernel_(std::move(kernel)) {}

  bool dependent_launch() const override { return true; }
  absl::Status Launch(absl::string_view kernel, absl::FunctionRef<absl::Status()> launch) override {
    return kernel == kernel_ ? absl::OkStatus() : launch();
  }

 private:
  std::string kernel_;
};

// A step whose kernels are to be measured.
struct KernelBench {
  cudaStream_t stream = nullptr;
  int repetitions = 0;
  // Launches one step on the stream.
  std::function<absl::Status(LaunchObserver* observer)> launch;
  // Occupies the stream for longer than the host needs to launch a step.
  std::function<absl::Status()> occupy;
  // Time of what is launched, repeated.
  std::function<absl::StatusOr<StepTime>(absl::FunctionRef<absl::Status()>)> time;
  StepTime step;  // of the whole step's graph
};

// Of the places of the step that launch anything; bytes are left 0. A median of the repetitions each.
absl::StatusOr<KernelTable> MeasureKernels(const KernelBench& bench);

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CUDA_CUDA_BENCH_KERNELS_H_
