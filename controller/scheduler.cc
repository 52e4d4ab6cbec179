#include "controller/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/check.h"
#include "proto/grpc_status.h"

namespace flexquant::controller {
namespace {

constexpr absl::Duration kRetryDelay = absl::Seconds(1);

absl::Status ShuttingDown() {
  return WithRetryDelay(
      WithErrorInfo(absl::UnavailableError("the server is shutting down; send the request to another one"),
                    "SHUTTING_DOWN"),
      kRetryDelay);
}

absl::Status TooLarge(uint64_t capacity_tokens) {
  return absl::ResourceExhaustedError(
      absl::StrCat("prompt and max_tokens need more than the ", capacity_tokens,
                   " tokens that fit into the KV cache of any ready executor; ask for fewer tokens, or start an "
                   "executor with a larger KV cache"));
}

}  // namespace

// Counts the requests that have not ended.
class ActiveRequests : public std::enable_shared_from_this<ActiveRequests> {
 public:
  // Counts until the returned object is destroyed.
  std::shared_ptr<void> Add() {
    const std::lock_guard lock(mutex_);
    ++count_;
    return {nullptr, [self = shared_from_this()](void*) { self->Remove(); }};
  }
  void WaitUntilNone(absl::Time deadline) {
    std::unique_lock lock(mutex_);
    none_.wait_until(lock, absl::ToChronoTime(deadline), [this] { return count_ == 0; });
  }

 private:
  void Remove() {
    const std::lock_guard lock(mutex_);
    --count_;
    none_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable none_;
  uint64_t count_ = 0;
};

Scheduler::Scheduler(const SchedulerOptions& options, const ExpectedModel& expected, const Tokenizer& tokenizer,
                     const LayerGroups& groups, std::function<void(bool ready)> readiness_changed)
    : shared_{tokenizer, groups, static_cast<uint32_t>(options.worker.lookahead)},
      readiness_changed_(std::move(readiness_changed)),
      active_(std::make_shared<ActiveRequests>()),
      queue_(options.max_queued_requests) {
  FQ_CHECK(!options.executors.empty());
  for (const ExecutorTarget& target : options.executors) {
    workers_.push_back(
        std::make_unique<ExecutorWorker>(target, expected, options.worker, queue_, [this] { OnStateChanged(); }));
  }
  for (const auto& worker : workers_) {
    worker->Start();
  }
}

Scheduler::~Scheduler() { Stop(); }

absl::StatusOr<uint64_t> Scheduler::Submit(std::unique_ptr<GenerationSpec> spec, std::shared_ptr<GenerationSink> sink) {
  uint64_t id = 0;
  {
    const std::lock_guard lock(mutex_);
    if (draining_) {
      return ShuttingDown();
    }
    if (!ready_) {
      return NotReadyError();
    }
    if (const uint64_t needed = spec->prompt.size() + spec->max_tokens - 1; needed > MaxSequenceTokens()) {
      return WithErrorInfo(TooLarge(MaxSequenceTokens()), "KV_CACHE_TOO_SMALL");
    }
    id = ++last_id_;
    auto sequence = std::make_unique<Sequence>(id, std::move(spec), std::move(sink), shared_, active_->Add());
    if (!queue_.Push(sequence)) {
      sequence->Discard();
      return WithRetryDelay(
          WithErrorInfo(absl::ResourceExhaustedError(absl::StrCat(
                            queue_.capacity(), " requests are waiting already, the most allowed; try again later")),
                        "QUEUE_FULL"),
          kRetryDelay);
    }
  }
  for (const auto& worker : workers_) {
    worker->Wake();
  }
  return id;
}

void Scheduler::Cancel(uint64_t id) {
  if (queue_.Cancel(id)) {
    return;
  }
  for (const auto& worker : workers_) {
    worker->Cancel(id);
  }
}

uint64_t Scheduler::MaxSequenceTokens() const {
  uint64_t most = 0;
  for (const auto& worker : workers_) {
    const ExecutorState state = worker->state();
    if (state.ready) {
      most = std::max<uint64_t>(most, uint64_t{state.description->num_kv_blocks} * state.description->kv_block_tokens);
    }
  }
  return most;
}

std::vector<ExecutorState> Scheduler::ExecutorStates() const {
  std::vector<ExecutorState> states;
  for (const auto& worker : workers_) {
    states.push_back(worker->state());
  }
  return states;
}

absl::Status Scheduler::NotReadyError() const {
  std::vector<std::string> reasons;
  for (const auto& worker : workers_) {
    reasons.emplace_back(worker->state().last_error.message());
  }
  return WithRetryDelay(
      WithErrorInfo(absl::UnavailableError(absl::StrCat("no executor is ready: ", absl::StrJoin(reasons, "; "))),
                    "NO_EXECUTOR"),
      kRetryDelay);
}

absl::Status Scheduler::WaitReady(absl::Duration timeout) const {
  std::unique_lock lock(mutex_);
  if (ready_changed_.wait_until(lock, absl::ToChronoTime(absl::Now() + timeout), [this] { return ready_; })) {
    return absl::OkStatus();
  }
  return absl::DeadlineExceededError(
      absl::StrCat("after ", absl::FormatDuration(timeout), ": ", NotReadyError().message()));
}

void Scheduler::OnStateChanged() {
  const std::lock_guard lock(mutex_);
  const bool ready =
      std::any_of(workers_.begin(), workers_.end(), [](const auto& worker) { return worker->state().ready; });
  const uint64_t capacity_tokens = MaxSequenceTokens();
  queue_.FailLargerThan(capacity_tokens, ready       ? TooLarge(capacity_tokens)
                                         : draining_ ? ShuttingDown()
                                                     : NotReadyError());
  if (ready == ready_) {
    return;
  }
  ready_ = ready;
  ready_changed_.notify_all();
  readiness_changed_(ready && !draining_);
}

void Scheduler::Drain(absl::Time deadline) {
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
    readiness_changed_(false);
  }
  active_->WaitUntilNone(deadline);
}

void Scheduler::Stop() {
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
    if (stopped_) {
      return;
    }
    stopped_ = true;
  }
  for (const auto& worker : workers_) {
    worker->Stop();
  }
  queue_.FailLargerThan(0, ShuttingDown());
}

}  // namespace flexquant::controller
