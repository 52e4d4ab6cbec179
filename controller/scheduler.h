#ifndef FLEXQUANT_CONTROLLER_SCHEDULER_H_
#define FLEXQUANT_CONTROLLER_SCHEDULER_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controller/active_requests.h"
#include "controller/balancer.h"
#include "controller/executor_worker.h"
#include "controller/generation.h"
#include "controller/metrics.h"
#include "controller/request_queue.h"

namespace flexquant::controller {

struct SchedulerOptions {
  QueueOptions queue;
  // How long accepted requests wait for an executor when there is none any more.
  absl::Duration failover_timeout = absl::Seconds(30);
  WorkerOptions worker;
};

// Continuous batching over executors that come and go: accepted requests wait in one bounded queue, each executor's
// worker takes from it what the balancer does not keep for another one, and gives back what it could not finish.
// Thread-safe.
class Scheduler {
 public:
  // `tokenizer` and `groups` must outlive this. `readiness_changed(ready)` is called, one call at a time, whenever the
  // first executor becomes ready and the last one is lost.
  Scheduler(const SchedulerOptions& options, const ExpectedModel& expected, const Tokenizer& tokenizer,
            const LayerGroups& groups, std::function<void(bool ready)> readiness_changed);
  // Stops at once.
  ~Scheduler();

  // Which executors there are. One that is new is connected to; one that is missing takes no new requests, hands those
  // it has over as soon as another one is ready, or finishes them, and is then forgotten. `lookup` says what is wrong
  // with the list, for callers who find no executor. Not from several threads at a time.
  void SetExecutors(const std::vector<ExecutorTarget>& targets, const absl::Status& lookup);

  // Queues a request and returns its id; `sink` gets its answer, possibly before this returns. Nothing is sent to
  // `sink` when it fails: UNAVAILABLE with RetryInfo (no executor ready, draining), RESOURCE_EXHAUSTED with RetryInfo
  // (queue full) or without (more KV blocks than any executor has). A running request of the same tenant and request id
  // is superseded: it ends with ABORTED, so that a retry never computes twice.
  absl::StatusOr<uint64_t> Submit(std::unique_ptr<GenerationSpec> spec, std::shared_ptr<GenerationSink> sink);
  // The request ends with CANCELLED, wherever it is; an unknown or ended one is ignored.
  void Cancel(uint64_t id);
  // The same by the client's name for it, with the reason ABORTED_BY_REQUEST_ID; NOT_FOUND if none is active.
  absl::Status Abort(const std::string& tenant, const std::string& request_id);
  // Whether that would find one; no request has no name.
  bool IsActive(const std::string& tenant, const std::string& request_id) const;
  // A client reads again.
  void Wake();

  // Most positions (prompt + answer) a sequence can have on the ready executor with the largest KV cache; 0 if none is
  // ready.
  uint64_t MaxSequenceTokens() const;
  std::vector<ExecutorState> ExecutorStates() const;
  // For monitoring.
  SchedulerFigures Figures() const;
  // Requests in the queue.
  size_t waiting() const { return queue_.size(); }
  // DEADLINE_EXCEEDED with the reasons if no executor is ready in time.
  absl::Status WaitReady(absl::Duration timeout) const;

  // No new requests; waits until the accepted ones have ended, at most until `deadline`.
  void Drain(absl::Time deadline);
  // No new requests; the accepted ones fail with UNAVAILABLE; the workers end. Idempotent.
  void Stop();

 private:
  using Workers = std::vector<std::shared_ptr<ExecutorWorker>>;

  Workers workers() const;
  std::shared_ptr<ExecutorWorker> MakeWorker(const ExecutorTarget& target);
  void OnStateChanged();
  absl::Status NotReadyError() const;
  bool OtherReady(const ExecutorWorker& worker) const;
  // False if it was to end already.
  bool End(const std::shared_ptr<ActiveRequest>& request, EndCause cause);

  const ExpectedModel expected_;
  const WorkerOptions worker_options_;
  const Sequence::Shared shared_;
  const std::function<void(bool)> readiness_changed_;
  const absl::Duration failover_timeout_;
  const std::shared_ptr<ActiveRequests> active_;
  RequestQueue queue_;
  Balancer balancer_;

  // Held while readiness is computed and while a request is checked against it and queued: a request is never queued
  // behind the back of the last executor's loss.
  mutable std::mutex mutex_;
  mutable std::condition_variable ready_changed_;
  bool ready_ = false;
  int64_t num_ready_ = 0;                        // executors
  absl::Time lost_at_ = absl::InfiniteFuture();  // since when no executor is ready
  bool draining_ = false;
  bool stopped_ = false;
  uint64_t last_id_ = 0;

  // No other lock of this class is taken with it held.
  mutable std::mutex workers_mutex_;
  Workers workers_;
  absl::Status lookup_;
  ExecutorFigures departed_;  // of the executors forgotten
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_SCHEDULER_H_
