#include "controller/scheduler.h"

#include <algorithm>
#include <set>
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

WorkerOptions WithGroups(WorkerOptions options, const LayerGroups& groups) {
  options.groups = &groups;
  return options;
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, const ExpectedModel& expected, const Tokenizer& tokenizer,
                     const LayerGroups& groups, std::function<void(bool ready)> readiness_changed)
    : expected_(expected),
      worker_options_(WithGroups(options.worker, groups)),
      shared_{tokenizer, groups, static_cast<uint32_t>(options.worker.lookahead)},
      readiness_changed_(std::move(readiness_changed)),
      failover_timeout_(options.failover_timeout),
      active_(std::make_shared<ActiveRequests>()),
      queue_(options.queue) {}

Scheduler::~Scheduler() { Stop(); }

std::shared_ptr<ExecutorWorker> Scheduler::MakeWorker(const ExecutorTarget& target) {
  auto worker = std::make_shared<ExecutorWorker>(
      target, expected_, worker_options_, queue_, balancer_,
      ExecutorWorker::Hooks{[this] { OnStateChanged(); }, [this] { Wake(); },
                            [this](const ExecutorWorker& self) { return OtherReady(self); }});
  worker->Start();
  return worker;
}

void Scheduler::SetExecutors(const std::vector<ExecutorTarget>& targets, const absl::Status& lookup) {
  Workers gone;  // ended outside of the lock
  {
    const std::lock_guard stop_lock(mutex_);
    if (stopped_) {
      return;
    }
    const std::lock_guard lock(workers_mutex_);
    lookup_ = lookup;
    std::erase_if(workers_, [&](const std::shared_ptr<ExecutorWorker>& worker) {
      if (!worker->finished()) {
        return false;
      }
      departed_.AddCounts(*worker->figures());
      gone.push_back(worker);
      return true;
    });
    std::set<std::string> listed;
    for (const ExecutorTarget& target : targets) {
      listed.insert(target.address);
      const auto has_address = [&](const auto& worker) { return worker->address() == target.address; };
      if (std::none_of(workers_.begin(), workers_.end(), has_address)) {
        workers_.push_back(MakeWorker(target));
      }
    }
    for (const auto& worker : workers_) {
      worker->SetListed(listed.count(worker->address()) > 0);
    }
  }
  // With no executor left nobody else looks after those that wait.
  queue_.FailExpired(absl::Now());
  OnStateChanged();
}

Scheduler::Workers Scheduler::workers() const {
  const std::lock_guard lock(workers_mutex_);
  return workers_;
}

absl::StatusOr<uint64_t> Scheduler::Submit(std::unique_ptr<GenerationSpec> spec, std::shared_ptr<GenerationSink> sink) {
  uint64_t id = 0;
  std::shared_ptr<ActiveRequest> superseded;
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
    const std::shared_ptr<ActiveRequest> request = active_->Add(id, spec->tenant, spec->request_id);
    auto sequence = std::make_unique<Sequence>(std::move(spec), std::move(sink), shared_, request);
    sequence->Resume();
    if (!sequence->ended()) {
      balancer_.Offer(*sequence, absl::Now());
      if (const absl::Status queued = queue_.Push(sequence); !queued.ok()) {
        balancer_.Withdraw(id);
        sequence->Discard();
        return WithRetryDelay(WithErrorInfo(queued, "QUEUE_FULL"), kRetryDelay);
      }
    }
    // Not before it is accepted: one that is refused must leave the older one as it is.
    superseded = active_->TakeName(*request);
  }
  if (superseded != nullptr) {
    End(superseded, EndCause::kSuperseded);
  }
  balancer_.Queued(id);
  return id;
}

void Scheduler::Wake() {
  for (const auto& worker : workers()) {
    worker->Wake();
  }
}

bool Scheduler::End(const std::shared_ptr<ActiveRequest>& request, EndCause cause) {
  if (!request->End(cause)) {
    return false;
  }
  // If it is on its way from one executor to another, whoever takes it next sees the cause.
  if (!queue_.Cancel(request->id(), StatusOf(cause))) {
    Wake();
  }
  return true;
}

void Scheduler::Cancel(uint64_t id) {
  if (const std::shared_ptr<ActiveRequest> request = active_->Find(id); request != nullptr) {
    End(request, EndCause::kCancelled);
  }
}

absl::Status Scheduler::Abort(const std::string& tenant, const std::string& request_id) {
  const std::shared_ptr<ActiveRequest> request = active_->Find(tenant, request_id);
  if (request != nullptr && End(request, EndCause::kAborted)) {
    return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrCat("no running or waiting request has the request_id '", request_id,
                                          "'; it has ended, or it never reached this server"));
}

bool Scheduler::IsActive(const std::string& tenant, const std::string& request_id) const {
  return !request_id.empty() && active_->Find(tenant, request_id) != nullptr;
}

bool Scheduler::OtherReady(const ExecutorWorker& worker) const {
  const Workers all = workers();
  return std::any_of(all.begin(), all.end(),
                     [&](const auto& other) { return other.get() != &worker && other->state().ready; });
}

uint64_t Scheduler::MaxSequenceTokens() const {
  uint64_t most = 0;
  for (const auto& worker : workers()) {
    const ExecutorState state = worker->state();
    if (state.ready) {
      most = std::max<uint64_t>(most, uint64_t{state.description->num_kv_blocks} * state.description->kv_block_tokens);
    }
  }
  return most;
}

std::vector<ExecutorState> Scheduler::ExecutorStates() const {
  std::vector<ExecutorState> states;
  for (const auto& worker : workers()) {
    states.push_back(worker->state());
  }
  return states;
}

SchedulerFigures Scheduler::Figures() const {
  SchedulerFigures figures;
  figures.waiting = queue_.size();
  figures.waiting_tokens = queue_.tokens();
  for (const auto& worker : workers()) {
    const ExecutorState state = worker->state();
    figures.executors.push_back({state.address, state.ready, worker->figures()});
  }
  const std::lock_guard lock(workers_mutex_);
  figures.departed = std::make_shared<ExecutorFigures>();
  figures.departed->AddCounts(departed_);
  return figures;
}

absl::Status Scheduler::NotReadyError() const {
  std::vector<std::string> reasons;
  for (const auto& worker : workers()) {
    reasons.emplace_back(worker->state().last_error.message());
  }
  {
    const std::lock_guard lock(workers_mutex_);
    if (!lookup_.ok()) {
      reasons.emplace_back(lookup_.message());
    }
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
  const Workers all = workers();
  const auto num_ready =
      std::count_if(all.begin(), all.end(), [](const auto& worker) { return worker->state().ready; });
  const bool ready = num_ready > 0;
  if (std::exchange(num_ready_, num_ready) != num_ready) {
    Wake();  // one that shuts down can hand its sequences over now
  }
  if (ready) {
    lost_at_ = absl::InfiniteFuture();
    const uint64_t capacity_tokens = MaxSequenceTokens();
    queue_.FailLargerThan(capacity_tokens, TooLarge(capacity_tokens));
  } else {
    lost_at_ = std::min(lost_at_, absl::Now());
    const bool finishing =
        std::any_of(all.begin(), all.end(), [](const auto& worker) { return worker->state().draining; });
    if (!finishing && absl::Now() - lost_at_ >= failover_timeout_) {
      const absl::Status reason = NotReadyError();
      queue_.FailAll([&](const Sequence& sequence) {
        return sequence.has_answer_tokens() ? LostError(sequence, reason.message()) : reason;
      });
    }
  }
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
  for (const auto& worker : workers()) {
    worker->Stop();
  }
  queue_.FailAll([](const Sequence& /*sequence*/) { return ShuttingDown(); });
}

}  // namespace flexquant::controller
