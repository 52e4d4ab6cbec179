#include "controller/executor_worker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "proto/grpc_status.h"
#include "spdlog/spdlog.h"

namespace flexquant::controller {
namespace {

constexpr absl::Duration kRetryDelay = absl::Seconds(1);

// A mistake the controller made towards the executor is not the client's.
absl::Status SequenceError(const std::string& address, const absl::Status& status) {
  absl::StatusCode code = status.code();
  if (code == absl::StatusCode::kInvalidArgument || code == absl::StatusCode::kNotFound ||
      code == absl::StatusCode::kFailedPrecondition || code == absl::StatusCode::kOutOfRange) {
    code = absl::StatusCode::kInternal;
  }
  return WithErrorInfo(absl::Status(code, absl::StrCat("executor ", address, ": ", status.message())),
                       "EXECUTOR_SEQUENCE_ERROR");
}

}  // namespace

ExecutorWorker::ExecutorWorker(const ExecutorTarget& target, const ExpectedModel& expected,
                               const WorkerOptions& options, RequestQueue& queue, std::function<void()> state_changed)
    : options_(options),
      queue_(queue),
      state_changed_(std::move(state_changed)),
      client_(target, expected, [wakeup = wakeup_] { wakeup->Notify(); }) {
  state_.address = target.address;
  state_.last_error = absl::UnavailableError(absl::StrCat("executor ", target.address, " has not been reached yet"));
}

ExecutorWorker::~ExecutorWorker() { Stop(); }

void ExecutorWorker::Start() {
  thread_ = std::thread([this] { Run(); });
}

void ExecutorWorker::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  client_.Interrupt();
  wakeup_->Notify();
  if (thread_.joinable()) {
    thread_.join();
  }
}

void ExecutorWorker::Cancel(uint64_t id) {
  {
    const std::lock_guard lock(mutex_);
    cancelled_.push_back(id);
  }
  wakeup_->Notify();
}

ExecutorState ExecutorWorker::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

bool ExecutorWorker::stopping() const {
  const std::lock_guard lock(mutex_);
  return stopping_;
}

void ExecutorWorker::SetState(bool ready, const absl::Status& error) {
  {
    const std::lock_guard lock(mutex_);
    state_.ready = ready;
    state_.last_error = error;
    if (ready) {
      state_.description = client_.description();
    }
  }
  state_changed_();
}

void ExecutorWorker::Run() {
  absl::Duration backoff = options_.min_backoff;
  std::string last_instance;
  std::string last_message;
  while (!stopping()) {
    const absl::Status connected = client_.Connect(options_.connect_timeout);
    if (!connected.ok()) {
      if (last_message != connected.message()) {
        spdlog::warn("{}; trying again", std::string(connected.message()));
        last_message = std::string(connected.message());
      }
      SetState(false, connected);
      const absl::Time retry_at = absl::Now() + backoff;
      while (!stopping() && absl::Now() < retry_at) {
        wakeup_->WaitUntil(retry_at);
      }
      backoff = std::min(backoff * 2, options_.max_backoff);
      continue;
    }
    const std::string& instance = client_.description().instance_id;
    if (!last_instance.empty() && last_instance != instance) {
      spdlog::warn("executor {} restarted: epoch {} instead of {}", client_.address(), instance, last_instance);
    }
    spdlog::info("executor {} is ready: {}, epoch {}", client_.address(), client_.description().device, instance);
    last_instance = instance;
    last_message.clear();
    backoff = options_.min_backoff;
    Serve();
  }
  SetState(false, absl::UnavailableError("the controller is shutting down"));
}

void ExecutorWorker::Serve() {
  const ExecutorDescription& description = client_.description();
  KvAllocator kv(description.num_kv_blocks, description.kv_block_tokens);
  {
    // Cancellations of sequences of an earlier stream.
    const std::lock_guard lock(mutex_);
    cancelled_.clear();
  }
  SetState(true, absl::OkStatus());
  absl::Status status;
  while (status.ok()) {
    status = stopping() ? WithErrorInfo(absl::UnavailableError("the server is shutting down"), "SHUTTING_DOWN")
                        : ServeOnce(kv);
    if (status.ok()) {
      wakeup_->WaitUntil(NextTimeout());
    }
  }
  if (!stopping()) {
    spdlog::warn("lost executor {}: {}", client_.address(), std::string(status.message()));
  }
  // Not ready first: no request may enter the queue in the belief that this executor will serve it.
  SetState(false, status);
  FailRunning(status);
  in_flight_.clear();
  client_.Disconnect();
}

absl::Status ExecutorWorker::ServeOnce(KvAllocator& kv) {
  const absl::Time now = absl::Now();
  // The stream's end is looked at before the results are taken, so that none that came before it is lost.
  const absl::Status stream = client_.StreamStatus();
  FQ_RETURN_IF_ERROR(TakeResults(now));
  EndCancelledAndExpired(now);
  if (!stream.ok()) {
    ReleaseEnded(kv);
    return absl::UnavailableError(absl::StrCat("executor ", client_.address(), ": ", stream.message()));
  }
  if (!in_flight_.empty() && now - in_flight_.front().sent > options_.step_timeout) {
    return absl::UnavailableError(absl::StrCat("executor ", client_.address(), " has not answered step ",
                                               in_flight_.front().step_id, " within ",
                                               absl::FormatDuration(options_.step_timeout)));
  }
  ReleaseEnded(kv);
  Admit(kv, now);
  SendSteps(now);
  return absl::OkStatus();
}

absl::Status ExecutorWorker::TakeResults(absl::Time now) {
  for (const StepResult& result : client_.TakeResults()) {
    FQ_RETURN_IF_ERROR(ApplyResult(result, now));
  }
  return absl::OkStatus();
}

absl::Status ExecutorWorker::ApplyResult(const StepResult& result, absl::Time now) {
  const auto violation = [&](absl::string_view what) {
    return absl::UnavailableError(
        absl::StrCat("executor ", client_.address(), " broke the protocol: ", what, " (step ", result.step_id, ")"));
  };
  if (in_flight_.empty() || in_flight_.front().step_id != result.step_id) {
    return violation("a result of a step that is not the next one owed");
  }
  const InFlight step = std::move(in_flight_.front());
  in_flight_.pop_front();
  if (result.sequences.size() != step.sequence_ids.size()) {
    return violation("a result with another number of sequences than its step");
  }
  for (size_t i = 0; i < step.sequence_ids.size(); ++i) {
    const SequenceResult& part = result.sequences[i];
    if (part.sequence_id != step.sequence_ids[i]) {
      return violation("a result with other sequences than its step");
    }
    Sequence* sequence = Find(part.sequence_id);
    if (sequence == nullptr || sequence->ended()) {
      continue;  // the step left before its stop was known
    }
    if (!part.status.ok()) {
      sequence->Fail(SequenceError(client_.address(), part.status));
    } else if (part.token.has_value()) {
      sequence->Accept(*part.token, part.audit_kl, now);
    } else if (step.sampled[i]) {
      return violation("no token for a sequence that samples");
    }
  }
  return absl::OkStatus();
}

void ExecutorWorker::EndCancelledAndExpired(absl::Time now) {
  std::vector<uint64_t> cancelled;
  {
    const std::lock_guard lock(mutex_);
    cancelled.swap(cancelled_);
  }
  for (const uint64_t id : cancelled) {
    Sequence* sequence = Find(id);
    if (sequence != nullptr && !sequence->ended()) {
      sequence->Fail(absl::CancelledError("the request was cancelled"));
    }
  }
  for (const auto& sequence : running_) {
    if (!sequence->ended() && sequence->deadline() <= now) {
      sequence->Fail(absl::DeadlineExceededError("the deadline passed while the answer was generated"));
    }
  }
  queue_.FailExpired(now);
}

void ExecutorWorker::ReleaseEnded(KvAllocator& kv) {
  std::vector<uint64_t> released;
  for (auto& sequence : running_) {
    if (sequence->ended()) {
      released.push_back(sequence->id());
      // The executor forgets the sequence before any step sent later, so its blocks are free for those.
      kv.Free(sequence->kv_blocks());
      sequence.reset();
    }
  }
  if (!released.empty()) {
    running_.erase(std::remove(running_.begin(), running_.end(), nullptr), running_.end());
    client_.SendRelease(released);
  }
}

void ExecutorWorker::Admit(KvAllocator& kv, absl::Time now) {
  while (running_.size() < client_.description().max_sequences) {
    std::unique_ptr<Sequence> sequence =
        queue_.PopIf([&](const Sequence& waiting) { return kv.BlocksFor(waiting.kv_tokens()) <= kv.num_free(); });
    if (sequence == nullptr) {
      return;
    }
    sequence->Start(*kv.Allocate(kv.BlocksFor(sequence->kv_tokens())), now);
    running_.push_back(std::move(sequence));
  }
}

void ExecutorWorker::SendSteps(absl::Time now) {
  const ExecutorDescription& description = client_.description();
  const StepLimits limits{description.max_sequences, description.max_step_tokens, options_.prefill_chunk_tokens,
                          description.kv_block_tokens, description.audits ? options_.audit_rate : 0};
  while (in_flight_.size() <= static_cast<size_t>(options_.lookahead)) {
    const std::vector<SequenceStep> step = ComposeStep(running_, limits);
    if (step.empty()) {
      return;
    }
    InFlight sent{client_.SendStep(step), now, {}, {}};
    for (const SequenceStep& part : step) {
      sent.sequence_ids.push_back(part.sequence_id);
      sent.sampled.push_back(part.sample);
    }
    in_flight_.push_back(std::move(sent));
  }
}

void ExecutorWorker::FailRunning(const absl::Status& reason) {
  for (const auto& sequence : running_) {
    if (sequence->ended()) {
      continue;
    }
    // What has sent tokens must not be retried as if nothing had happened.
    const bool shutting_down = stopping();
    if (sequence->has_answer_tokens() && !shutting_down) {
      sequence->Fail(WithErrorInfo(
          absl::AbortedError(absl::StrCat(reason.message(), "; the answer so far stands, send the request again")),
          "EXECUTOR_LOST"));
    } else {
      sequence->Fail(WithRetryDelay(
          WithErrorInfo(absl::UnavailableError(reason.message()), shutting_down ? "SHUTTING_DOWN" : "EXECUTOR_LOST"),
          kRetryDelay));
    }
  }
  running_.clear();
}

absl::Time ExecutorWorker::NextTimeout() const {
  absl::Time next = queue_.NextDeadline();
  for (const auto& sequence : running_) {
    next = std::min(next, sequence->deadline());
  }
  if (!in_flight_.empty()) {
    next = std::min(next, in_flight_.front().sent + options_.step_timeout + absl::Milliseconds(1));
  }
  return next;
}

Sequence* ExecutorWorker::Find(uint64_t id) const {
  const auto found = std::find_if(running_.begin(), running_.end(),
                                  [&](const std::unique_ptr<Sequence>& sequence) { return sequence->id() == id; });
  return found == running_.end() ? nullptr : found->get();
}

}  // namespace flexquant::controller
