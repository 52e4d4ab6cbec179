#ifndef FLEXQUANT_EXECUTOR_CUDA_LAUNCH_OBSERVER_H_
#define FLEXQUANT_EXECUTOR_CUDA_LAUNCH_OBSERVER_H_

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace flexquant::executor {

// Stands between a pass and its launches, for measurements.
class LaunchObserver {
 public:
  virtual ~LaunchObserver() = default;

  // `launch` launches all kernels of one place in the pass, maybe none; to be called once or not at all. `kernel` names
  // the place within a block: "qkv quantize", "qkv" ...
  virtual absl::Status Launch(absl::string_view kernel, absl::FunctionRef<absl::Status()> launch) = 0;
  // Whether kernels may start while the one before them runs.
  virtual bool dependent_launch() const = 0;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CUDA_LAUNCH_OBSERVER_H_
