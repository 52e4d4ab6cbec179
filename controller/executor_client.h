#ifndef FLEXQUANT_CONTROLLER_EXECUTOR_CLIENT_H_
#define FLEXQUANT_CONTROLLER_EXECUTOR_CLIENT_H_

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "controller/executor_link.h"
#include "controller/plan_ids.h"
#include "controller/server.h"
#include "controller/step.h"
#include "flexquant/executor/v1/executor.grpc.pb.h"

namespace flexquant::controller {

class StepStream;

// One Execute stream to one executor. All calls but Interrupt come from one thread; none of them waits for the network
// except Connect and Disconnect.
class ExecutorClient final : public ExecutorLink {
 public:
  // `notify` is called from other threads when results or the stream's end have arrived.
  // Streams of different controllers cannot be open at once.
  ExecutorClient(const ExecutorTarget& target, ExpectedModel expected, std::string controller_id,
                 std::function<void()> notify);
  ~ExecutorClient() override;

  // Describes the executor, checks that it serves the expected model, and opens a stream. The stream must not be open.
  // UNAVAILABLE (not reached; restarted in between), DEADLINE_EXCEEDED, FAILED_PRECONDITION (another model,
  // nonsensical limits, another controller; says which), CANCELLED (interrupted).
  absl::Status Connect(absl::Duration timeout);
  // Makes a running and every later Connect return soon. Thread-safe.
  void Interrupt();
  // Ends the stream and waits for its end; results not taken are lost.
  void Disconnect();

  // Of the last successful Connect.
  const ExecutorDescription& description() const { return description_; }
  absl::Status StreamStatus() const override;
  bool draining() const override;
  uint64_t SendStep(const std::vector<SequenceStep>& sequences) override;
  void SendRelease(const std::vector<uint64_t>& sequence_ids) override;
  std::vector<StepResult> TakeResults() override;
  const std::string& address() const override { return target_.address; }

 private:
  // Makes the channel on first use, and again once its certificates have been replaced.
  void PrepareChannel();
  absl::Status Describe(absl::Time deadline);
  absl::Status CheckDescription(const executor::v1::DescribeResponse& response) const;

  const ExecutorTarget target_;
  const ExpectedModel expected_;
  const std::string controller_id_;
  const std::function<void()> notify_;
  std::shared_ptr<grpc::ChannelCredentials> used_credentials_;  // of the channel
  std::unique_ptr<executor::v1::ExecutorService::Stub> stub_;   // null before the first Connect
  ExecutorDescription description_;
  PlanIds plan_ids_;
  uint64_t last_step_id_ = 0;
  std::unique_ptr<StepStream> stream_;

  std::mutex interrupt_mutex_;
  bool interrupted_ = false;
  std::function<void()> cancel_call_;  // of the call in progress
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_EXECUTOR_CLIENT_H_
