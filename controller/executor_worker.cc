#include "controller/executor_worker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/grpc_status.h"
#include "spdlog/spdlog.h"

namespace flexquant::controller {
ExecutorWorker::ExecutorWorker(const ExecutorTarget& target, const ExpectedModel& expected,
                               const WorkerOptions& options, RequestQueue& queue, Balancer& balancer, Hooks hooks)
    : options_(options),
      queue_(queue),
      balancer_(balancer),
      hooks_(std::move(hooks)),
      client_(target, expected, options.controller_id, [wakeup = wakeup_] { wakeup->Notify(); }) {
  state_.address = target.address;
  state_.figures = shared_figures_;
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

void ExecutorWorker::SetState(bool ready, bool draining, const absl::Status& error) {
  {
    const std::lock_guard lock(mutex_);
    state_.ready = ready;
    state_.draining = draining;
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
      SetState(false, false, connected);
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
  SetState(false, false,
           absl::UnavailableError(stopping() ? "the controller is shutting down"
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
  ExecutorFigures& figures = *shared_figures_;
  ExecutorRounds rounds(
      client_.description(), options_, client_, queue_, balancer_, figures,
      ExecutorRounds::Hooks{
          [wakeup = wakeup_] { wakeup->Notify(); }, hooks_.returned, [this] { return hooks_.other_ready(*this); },
          [this](bool ready, const absl::Status& reason) { SetState(ready, /*draining=*/!ready, reason); }});
  absl::Status status;
  bool left = false;
  while (status.ok() && !left) {
    status = stopping() ? WithErrorInfo(absl::UnavailableError("the server is shutting down"), "SHUTTING_DOWN")
                        : rounds.Round(listed(), absl::Now());
    left = status.ok() && rounds.leaving() && rounds.empty() && !listed();
    if (status.ok() && !left) {
      wakeup_->WaitUntil(rounds.NextTimeout());
    }
  }
  if (left) {
    spdlog::info("executor {} has left", client_.address());
    status = absl::UnavailableError(absl::StrCat("executor ", client_.address(), " has left"));
  } else if (!stopping()) {
    ++figures.losses;
    spdlog::warn("lost executor {}: {}", client_.address(), std::string(status.message()));
  }
  rounds.GiveBack(status, stopping());
  figures.running = 0;
  figures.kv_blocks = 0;
  figures.kv_blocks_used = 0;
  client_.Disconnect();
  SetState(false, false, status);
}

}  // namespace flexquant::controller
