#ifndef FLEXQUANT_TESTS_CONTROLLER_BENCH_NULL_EXECUTOR_H_
#define FLEXQUANT_TESTS_CONTROLLER_BENCH_NULL_EXECUTOR_H_

#include <memory>
#include <string>

#include "grpcpp/channel.h"

namespace flexquant::controller {

// An executor that computes nothing: answers every step at once with a token for each sequence that samples. Checks
// nothing. What is left of a request's time is the controller's.
class NullExecutor {
 public:
  virtual ~NullExecutor() = default;
  static std::unique_ptr<NullExecutor> Start(const std::string& model_revision, int num_layer_groups,
                                             uint32_t max_sequences);
  virtual std::shared_ptr<grpc::Channel> channel() = 0;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_TESTS_CONTROLLER_BENCH_NULL_EXECUTOR_H_
