#include "controller/step_stream.h"

#include <chrono>
#include <utility>

#include "controller/executor_text.h"
#include "controller/step_proto.h"

namespace flexquant::controller {

StepStream::StepStream(executor::v1::ExecutorService::Stub& stub, std::function<void()> notify)
    : notify_(std::move(notify)) {
  stub.async()->Execute(&context_, this);
  // Sends come from outside the callbacks; the hold, dropped when reading ends, keeps OnDone away until then.
  AddHold();
  StartRead(&incoming_);
  StartCall();
}

void StepStream::Send(executor::v1::ExecuteRequest request) {
  const std::lock_guard lock(mutex_);
  if (reading_ended_) {
    return;
  }
  outbox_.push_back(std::move(request));
  if (!writing_) {
    StartNextWrite();
  }
}

void StepStream::StartNextWrite() {
  outgoing_ = std::move(outbox_.front());
  outbox_.pop_front();
  writing_ = true;
  StartWrite(&outgoing_);
}

absl::StatusOr<std::string> StepStream::WaitOpened(absl::Time deadline) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_until(lock, absl::ToChronoTime(deadline),
                           [&] { return opened_instance_id_.has_value() || done_; })) {
    return absl::DeadlineExceededError("the executor did not open the stream in time");
  }
  if (done_) {
    return status_;
  }
  return *opened_instance_id_;
}

std::vector<StepResult> StepStream::TakeResults() {
  const std::lock_guard lock(mutex_);
  return std::exchange(results_, {});
}

bool StepStream::draining() const {
  const std::lock_guard lock(mutex_);
  return draining_;
}

absl::Status StepStream::status() const {
  const std::lock_guard lock(mutex_);
  return done_ ? status_ : absl::OkStatus();
}

void StepStream::Close() {
  context_.TryCancel();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return done_; });
}

void StepStream::OnReadDone(bool ok) {
  {
    const std::lock_guard lock(mutex_);
    if (!ok) {
      reading_ended_ = true;
    } else if (incoming_.has_opened() && !opened_instance_id_.has_value()) {
      opened_instance_id_ = incoming_.opened().instance_id();
    } else if (incoming_.has_result() && opened_instance_id_.has_value()) {
      results_.push_back(FromProto(incoming_.result()));
    } else if (incoming_.has_draining() && opened_instance_id_.has_value()) {
      draining_ = true;
    } else {
      context_.TryCancel();
    }
    changed_.notify_all();
  }
  notify_();
  if (ok) {
    StartRead(&incoming_);
  } else {
    RemoveHold();
  }
}

void StepStream::OnWriteDone(bool ok) {
  const std::lock_guard lock(mutex_);
  writing_ = false;
  if (ok && !outbox_.empty() && !reading_ended_) {
    StartNextWrite();
  }
}

void StepStream::OnDone(const grpc::Status& status) {
  const std::function<void()> notify = notify_;
  {
    // `this` may be destroyed as soon as the lock is released.
    const std::lock_guard lock(mutex_);
    status_ = status.ok() ? absl::UnavailableError("the executor ended the stream") : FromExecutor(status);
    done_ = true;
    changed_.notify_all();
  }
  notify();
}

}  // namespace flexquant::controller
