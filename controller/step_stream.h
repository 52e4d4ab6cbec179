#ifndef FLEXQUANT_CONTROLLER_STEP_STREAM_H_
#define FLEXQUANT_CONTROLLER_STEP_STREAM_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controller/step.h"
#include "flexquant/executor/v1/executor.grpc.pb.h"

namespace flexquant::controller {

// The client's side of one Execute call: messages out in order without waiting, results collected. Thread-safe. Must
// not be destroyed before Close has returned.
class StepStream final : public grpc::ClientBidiReactor<executor::v1::ExecuteRequest, executor::v1::ExecuteResponse> {
 public:
  StepStream(executor::v1::ExecutorService::Stub& stub, std::function<void()> notify);

  // Queues a message; dropped once the stream has ended.
  void Send(executor::v1::ExecuteRequest request);
  // Waits for `opened` and returns the executor's epoch; or the stream's status, or DEADLINE_EXCEEDED.
  absl::StatusOr<std::string> WaitOpened(absl::Time deadline);
  // Results arrived since the last call.
  std::vector<StepResult> TakeResults();
  // Whether the executor has said that it is shutting down.
  bool draining() const;
  // OK while open; then why it ended, never OK.
  absl::Status status() const;
  // Cancels the call; thread-safe, does not wait.
  void Cancel() { context_.TryCancel(); }
  // Cancels the call and waits for its end.
  void Close();

 private:
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;
  void StartNextWrite();  // with mutex_ held

  const std::function<void()> notify_;
  grpc::ClientContext context_;
  executor::v1::ExecuteResponse incoming_;
  executor::v1::ExecuteRequest outgoing_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<executor::v1::ExecuteRequest> outbox_;
  std::vector<StepResult> results_;
  std::optional<std::string> opened_instance_id_;
  bool draining_ = false;
  bool writing_ = false;
  bool reading_ended_ = false;
  bool done_ = false;
  absl::Status status_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_STEP_STREAM_H_
