#include "controller/executor_worker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/nanoseconds.h"
#include "common/status_macros.h"
#include "proto/grpc_status.h"
#include "spdlog/spdlog.h"

namespace flexquant::controller {
namespace {

constexpr absl::Duration kRetryDelay = absl::Seconds(1);

// The worker alone writes: no read and write as one are needed, which would cost more.
void Add(ExecutorFigures::Number& number, uint64_t count) {
  number.store(number.load(std::memory_order_relaxed) + count, std::memory_order_relaxed);
}

}  // namespace

absl::Status LostError(const Sequence& sequence, absl::string_view reason) {
  // What has sent tokens must not be retried as if nothing had happened.
  if (sequence.has_answer_tokens()) {
    return WithErrorInfo(
        absl::AbortedError(absl::StrCat(reason, "; the answer so far stands: resume it, or send the request again")),
        "EXECUTOR_LOST");
  }
  return WithRetryDelay(WithErrorInfo(absl::UnavailableError(reason), "EXECUTOR_LOST"), kRetryDelay);
}

ExecutorWorker::ExecutorWorker(const ExecutorTarget& target, const ExpectedModel& expected,
                               const WorkerOptions& options, RequestQueue& queue, Hooks hooks)
    : options_(options),
      queue_(queue),
      hooks_(std::move(hooks)),
      client_(target, expected, options.controller_id, [wakeup = wakeup_] { wakeup->Notify(); }) {
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

ExecutorState ExecutorWorker::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

bool ExecutorWorker::stopping() const {
  const std::lock_guard lock(mutex_);
  return stopping_;
}

bool ExecutorWorker::listed() const {
  const std::lock_guard lock(mutex_);
  return listed_;
}

void ExecutorWorker::SetListed(bool listed) {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(listed_, listed) == listed) {
      return;
    }
  }
  wakeup_->Notify();
}

bool ExecutorWorker::finished() const {
  const std::lock_guard lock(mutex_);
  return finished_;
}

bool ExecutorWorker::Continue() {
  const std::lock_guard lock(mutex_);
  closed_ = closed_ || !listed_;
  return !stopping_ && !closed_;
}

void ExecutorWorker::SetState(bool ready, const absl::Status& error) {
  {
    const std::lock_guard lock(mutex_);
    state_.ready = ready;
    state_.draining = leaving_;
    state_.last_error = error;
    if (ready) {
      state_.description = client_.description();
    }
  }
  hooks_.state_changed();
}

void ExecutorWorker::Run() {
  absl::Duration backoff = options_.min_backoff;
  std::string last_instance;
  std::string last_message;
  while (Continue()) {
    const absl::Status connected = client_.Connect(options_.connect_timeout);
    if (!connected.ok()) {
      if (last_message != connected.message()) {
        spdlog::warn("{}; trying again", std::string(connected.message()));
        last_message = std::string(connected.message());
      }
      SetState(false, connected);
      WaitToRetry(backoff);
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
  SetState(false, absl::UnavailableError(stopping() ? "the controller is shutting down"
                                                    : absl::StrCat("executor ", client_.address(), " has left")));
  // The last act: who reads it may destroy this.
  const std::lock_guard lock(mutex_);
  finished_ = closed_;
}

void ExecutorWorker::WaitToRetry(absl::Duration backoff) {
  const absl::Time retry_at = absl::Now() + backoff;
  while (!stopping() && listed() && absl::Now() < retry_at) {
    // With every executor lost nobody else looks after those that wait.
    queue_.FailExpired(absl::Now());
    hooks_.state_changed();
    wakeup_->WaitUntil(std::min(retry_at, queue_.NextDeadline()));
  }
}

void ExecutorWorker::Serve() {
  const ExecutorDescription& description = client_.description();
  Batch batch(description.num_kv_blocks, description.kv_block_tokens,
              {description.max_sequences, description.max_step_tokens, options_.prefill_chunk_tokens,
               description.audits ? options_.audit_rate : 0});
  leaving_ = false;
  SetState(true, absl::OkStatus());
  absl::Status status;
  bool left = false;
  while (status.ok() && !left) {
    status = stopping() ? WithErrorInfo(absl::UnavailableError("the server is shutting down"), "SHUTTING_DOWN")
                        : ServeOnce(batch);
    left = status.ok() && leaving_ && batch.running().empty() && !listed();
    if (status.ok() && !left) {
      wakeup_->WaitUntil(NextTimeout(batch));
    }
  }
  if (left) {
    spdlog::info("executor {} has left", client_.address());
    status = absl::UnavailableError(absl::StrCat("executor ", client_.address(), " has left"));
  } else if (!stopping()) {
    Add(figures_.losses, 1);
    spdlog::warn("lost executor {}: {}", client_.address(), std::string(status.message()));
  }
  in_flight_.Clear();
  GiveBack(batch, status);
  figures_.running = 0;
  figures_.kv_blocks = 0;
  figures_.kv_blocks_used = 0;
  client_.Disconnect();
  leaving_ = false;
  SetState(false, status);
}

absl::Status ExecutorWorker::ServeOnce(Batch& batch) {
  const absl::Time now = absl::Now();
  // The stream's end is looked at before the results are taken, so that none that came before it is lost.
  const absl::Status stream = client_.StreamStatus();
  for (const StepResult& result : client_.TakeResults()) {
    FQ_RETURN_IF_ERROR(ApplyResult(result, batch, now));
  }
  EndUnwanted(batch, now);
  if (!stream.ok()) {
    batch.RemoveEnded();
    return absl::UnavailableError(absl::StrCat("executor ", client_.address(), ": ", stream.message()));
  }
  if (!in_flight_.empty() && now - in_flight_.front().sent > options_.step_timeout) {
    return absl::UnavailableError(absl::StrCat("executor ", client_.address(), " has not answered step ",
                                               in_flight_.front().step_id, " within ",
                                               absl::FormatDuration(options_.step_timeout)));
  }
  if (const std::vector<uint64_t> ended = batch.RemoveEnded(); !ended.empty()) {
    client_.SendRelease(ended);
  }
  if (client_.draining() || !listed()) {
    Leave(batch);
  } else {
    if (std::exchange(leaving_, false)) {
      SetState(true, absl::OkStatus());  // listed again
    }
    batch.Admit(queue_, now);
  }
  SendSteps(batch, now);
  CountBatch(batch);
  return absl::OkStatus();
}

absl::Status ExecutorWorker::ApplyResult(const StepResult& result, Batch& batch, absl::Time now) {
  const auto lost = [&](const absl::Status& status) {
    return absl::UnavailableError(absl::StrCat("executor ", client_.address(), " ", status.message()));
  };
  const absl::StatusOr<StepsInFlight::Step> step = in_flight_.Take(result);
  if (!step.ok()) {
    return lost(step.status());
  }
  CountResult(result, now - step->sent);
  const absl::Status applied = StepsInFlight::Apply(
      *step, result, client_.address(), batch, now,
      [this](const Sequence& sequence) {
        if (!sequence.tenant().empty()) {
          queue_.Served(sequence.tenant(), 1);
        }
      },
      [this](std::unique_ptr<Sequence> sequence) {
        // It shuts down, and its word for that may still be on its way. One that refuses for ever does not get round
        // the limit of losses, and one that has made the sequence all the same forgets it.
        client_.SendRelease({sequence->executor_id()});
        if (!client_.draining()) {
          sequence->CountLoss();
        }
        ReturnOrFail(std::move(sequence), "it does not take the request");
        hooks_.returned();
      });
  return applied.ok() ? applied : lost(applied);
}

void ExecutorWorker::ReturnOrFail(std::unique_ptr<Sequence> sequence, absl::string_view reason) {
  if (sequence->losses() < options_.max_losses) {
    queue_.Return(std::move(sequence));
    return;
  }
  sequence->Fail(LostError(*sequence, absl::StrCat("the request lost ", sequence->losses(),
                                                   " executors without a token in between, the last one: ", reason)));
}

void ExecutorWorker::EndUnwanted(Batch& batch, absl::Time now) {
  for (const auto& sequence : batch.running()) {
    if (sequence->ended()) {
      continue;
    }
    if (const EndCause cause = sequence->end_cause(); cause != EndCause::kNone) {
      sequence->Fail(StatusOf(cause));
    } else if (sequence->deadline() <= now) {
      sequence->Fail(absl::DeadlineExceededError("the deadline passed while the answer was generated"));
    } else if (sequence->paused() && now - sequence->paused_since() > options_.slow_reader_timeout) {
      sequence->Fail(
          WithErrorInfo(absl::ResourceExhaustedError(absl::StrCat("the client has read nothing for ",
                                                                  absl::FormatDuration(options_.slow_reader_timeout),
                                                                  "; read the stream, or ask for fewer tokens")),
                        "SLOW_READER"));
    }
  }
  queue_.FailExpired(now);
}

void ExecutorWorker::Leave(Batch& batch) {
  if (!std::exchange(leaving_, true)) {
    const std::string reason = absl::StrCat("executor ", client_.address(),
                                            client_.draining() ? " is shutting down" : " is not listed any more");
    spdlog::info("{}", reason);
    SetState(false, absl::UnavailableError(reason));
  }
  if (batch.running().empty() || !hooks_.other_ready(*this)) {
    return;  // it may finish what it has
  }
  ReturnToQueue(batch.TakeAll(), figures_.moved);
  hooks_.returned();
}

void ExecutorWorker::ReturnToQueue(std::vector<std::unique_ptr<Sequence>> sequences, ExecutorFigures::Number& counted) {
  if (sequences.empty()) {
    return;
  }
  std::vector<uint64_t> released;
  for (std::unique_ptr<Sequence>& sequence : sequences) {
    released.push_back(sequence->executor_id());
    queue_.Return(std::move(sequence));
  }
  client_.SendRelease(released);
  Add(counted, released.size());
}

void ExecutorWorker::SendSteps(Batch& batch, absl::Time now) {
  while (in_flight_.size() <= static_cast<size_t>(options_.lookahead)) {
    const absl::Time begun = absl::Now();
    const std::vector<SequenceStep> step = batch.Compose(now);
    CountStep(step, absl::Now() - begun);
    ReturnToQueue(batch.TakePreempted(), figures_.preemptions);
    if (step.empty()) {
      return;
    }
    in_flight_.Add(client_.SendStep(step), step, now);
  }
}

void ExecutorWorker::CountStep(const std::vector<SequenceStep>& step, absl::Duration plan_time) {
  Add(figures_.plan_ns, Nanoseconds(plan_time));
  for (const SequenceStep& part : step) {
    Add(figures_.step_tokens, std::max<size_t>(part.token_ids.size(), 1));
    if (part.start.has_value()) {
      Add(figures_.prefix_tokens, part.start->prompt_tokens);
      Add(figures_.prefix_hits, part.start->cached_token_ids.size());
    }
    const auto num_groups = static_cast<int>(part.plan.bits.size());
    for (int group = 0; part.sample && group < num_groups; ++group) {
      const LayerGroupKind kind = LayerGroupKindOf(group, num_groups / kLayerGroupsPerBlock);
      Add(figures_.group_tokens[static_cast<size_t>(kind)][part.plan.bits[static_cast<size_t>(group)]], 1);
    }
  }
}

void ExecutorWorker::CountResult(const StepResult& result, absl::Duration since_sent) {
  Add(figures_.steps, 1);
  Add(figures_.weight_bytes, result.weight_bytes_read);
  Add(figures_.queue_ns, Nanoseconds(result.queue_time));
  Add(figures_.compute_ns, Nanoseconds(result.compute_time));
  Add(figures_.wire_ns, Nanoseconds(since_sent - result.queue_time - result.compute_time));
  for (const SequenceResult& part : result.sequences) {
    if (part.audit_kl.has_value()) {
      Add(figures_.audits, 1);
      Add(figures_.audit_kl_nnats, static_cast<uint64_t>(*part.audit_kl * 1e9));
    }
  }
}

void ExecutorWorker::CountBatch(const Batch& batch) {
  figures_.running = batch.running().size();
  figures_.kv_blocks = batch.kv().num_blocks();
  figures_.kv_blocks_used = batch.kv().num_blocks() - batch.kv().num_available();
}

void ExecutorWorker::GiveBack(Batch& batch, const absl::Status& reason) {
  const bool shutting_down = stopping();
  for (std::unique_ptr<Sequence>& sequence : batch.TakeAll()) {
    if (shutting_down) {
      sequence->Fail(
          WithRetryDelay(WithErrorInfo(absl::UnavailableError(reason.message()), "SHUTTING_DOWN"), kRetryDelay));
      continue;
    }
    sequence->CountLoss();
    Add(figures_.moved, 1);
    ReturnOrFail(std::move(sequence), reason.message());
  }
  hooks_.returned();
}

absl::Time ExecutorWorker::NextTimeout(const Batch& batch) const {
  absl::Time next = queue_.NextDeadline();
  for (const auto& sequence : batch.running()) {
    next = std::min(next, sequence->deadline());
    if (sequence->paused_since() != absl::InfiniteFuture()) {
      next = std::min(next, sequence->paused_since() + options_.slow_reader_timeout + absl::Milliseconds(1));
    }
  }
  if (!in_flight_.empty()) {
    next = std::min(next, in_flight_.front().sent + options_.step_timeout + absl::Milliseconds(1));
  }
  return next;
}

}  // namespace flexquant::controller
