#ifndef FLEXQUANT_TESTS_CONTROLLER_BENCH_NULL_EXECUTOR_H_
#define FLEXQUANT_TESTS_CONTROLLER_BENCH_NULL_EXECUTOR_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string>

#include "flexquant/executor/v1/executor.pb.h"
#include "grpcpp/channel.h"

namespace flexquant::controller {

// An executor that computes nothing: answers every step at once, or after a time that is said for it, with a token for
// each sequence that samples. Checks nothing. What is left of a request's time is the controller's.
class NullExecutor {
 public:
  virtual ~NullExecutor() = default;
  // How long a step is to take, from when it has come and the one before it is done.
  using StepTime = std::function<std::chrono::nanoseconds(const executor::v1::StepRequest& step)>;

  static std::unique_ptr<NullExecutor> Start(const std::string& model_revision, int num_layer_groups,
                                             uint32_t max_sequences, StepTime step_time = nullptr);
  virtual std::shared_ptr<grpc::Channel> channel() = 0;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_TESTS_CONTROLLER_BENCH_NULL_EXECUTOR_H_
