#include "controller/step_stream.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/grpc_status.h"

namespace flexquant::controller {
namespace {

constexpr int kMaxTopLogprobs = 20;

// The executor is trusted as little as any peer: an unknown code must not become OK.
absl::Status SequenceStatus(const executor::v1::SequenceResult& result) {
  if (result.code() == 0) {
    const executor::v1::SampledToken& token = result.token();
    const bool numbers = std::isfinite(token.entropy_nats()) && std::isfinite(token.top1_probability()) &&
                         std::isfinite(token.margin()) && std::isfinite(token.logprob());
    return numbers ? absl::OkStatus() : absl::InternalError("the signals of a token are not finite");
  }
  const bool known = result.code() > 0 && result.code() <= 16;
  return {known ? static_cast<absl::StatusCode>(result.code()) : absl::StatusCode::kUnknown, result.message()};
}

SampledToken FromProto(const executor::v1::SampledToken& proto) {
  SampledToken token;
  token.id = proto.id();
  token.signals = {proto.entropy_nats(), proto.top1_probability(), proto.margin()};
  token.logprob = proto.logprob();
  const int top = std::min({proto.top_ids_size(), proto.top_logprobs_size(), kMaxTopLogprobs});
  for (int i = 0; i < top; ++i) {
    token.top.push_back({proto.top_ids(i), proto.top_logprobs(i)});
  }
  return token;
}

StepResult FromProto(const executor::v1::StepResult& proto) {
  StepResult result;
  result.step_id = proto.step_id();
  result.queue_time = absl::Nanoseconds(proto.queue_ns());
  result.compute_time = absl::Nanoseconds(proto.compute_ns());
  result.weight_bytes_read = proto.weight_bytes_read();
  for (const auto& sequence : proto.sequences()) {
    SequenceResult& out = result.sequences.emplace_back();
    out.sequence_id = sequence.sequence_id();
    out.status = SequenceStatus(sequence);
    if (sequence.has_token()) {
      out.token = FromProto(sequence.token());
    }
    // A number that is no KL counts as no audit.
    if (sequence.has_audit_kl() && sequence.audit_kl() >= 0 && std::isfinite(sequence.audit_kl())) {
      out.audit_kl = sequence.audit_kl();
    }
  }
  return result;
}

}  // namespace

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
    status_ = status.ok() ? absl::UnavailableError("the executor ended the stream") : FromGrpcStatus(status);
    done_ = true;
    changed_.notify_all();
  }
  notify();
}

}  // namespace flexquant::controller
