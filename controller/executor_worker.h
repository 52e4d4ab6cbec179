#ifndef FLEXQUANT_CONTROLLER_EXECUTOR_WORKER_H_
#define FLEXQUANT_CONTROLLER_EXECUTOR_WORKER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "controller/executor_client.h"
#include "controller/kv_allocator.h"
#include "controller/request_queue.h"
#include "controller/sequence.h"
#include "controller/server.h"
#include "controller/step_composer.h"
#include "controller/wakeup.h"

namespace flexquant::controller {

struct WorkerOptions {
  int lookahead = 1;
  uint32_t prefill_chunk_tokens = 256;
  double audit_rate = 0;  // share of the decode steps of policies that predict KL, in [0, 1]
  absl::Duration connect_timeout = absl::Seconds(5);
  absl::Duration min_backoff = absl::Milliseconds(50);
  absl::Duration max_backoff = absl::Seconds(2);
  // An executor that owes a step's result for longer counts as dead.
  absl::Duration step_timeout = absl::Minutes(10);
};

// What is known of an executor.
struct ExecutorState {
  std::string address;
  bool ready = false;                              // a stream is open
  std::optional<ExecutorDescription> description;  // of the last connection
  absl::Status last_error;                         // why it is not ready
};

// One thread that keeps one executor connected and busy: takes requests from the queue as KV blocks allow, sends steps,
// hands results to the sequences. When the stream breaks its sequences fail and it connects again with backoff.
class ExecutorWorker {
 public:
  // `queue` must outlive this; `state_changed` is called from the worker's thread after every change of readiness.
  ExecutorWorker(const ExecutorTarget& target, const ExpectedModel& expected, const WorkerOptions& options,
                 RequestQueue& queue, std::function<void()> state_changed);
  // Calls Stop.
  ~ExecutorWorker();

  void Start();
  // Fails the running sequences with UNAVAILABLE and ends the thread. Idempotent.
  void Stop();
  // Something is new in the queue. Thread-safe.
  void Wake() { wakeup_->Notify(); }
  // Cancels a running sequence; an unknown id is ignored. Thread-safe.
  void Cancel(uint64_t id);
  // Thread-safe.
  ExecutorState state() const;

 private:
  struct InFlight {
    uint64_t step_id;
    absl::Time sent;
    std::vector<uint64_t> sequence_ids;
    std::vector<bool> sampled;  // which of them ask for a token
  };

  void Run();
  void Serve();
  // One round: results, cancellations, deadlines, admission, steps. Not OK when the stream must be given up.
  absl::Status ServeOnce(KvAllocator& kv);
  absl::Status TakeResults(absl::Time now);
  absl::Status ApplyResult(const StepResult& result, absl::Time now);
  void EndCancelledAndExpired(absl::Time now);
  // Releases what has ended, on the executor at once.
  void ReleaseEnded(KvAllocator& kv);
  void Admit(KvAllocator& kv, absl::Time now);
  void SendSteps(absl::Time now);
  void FailRunning(const absl::Status& reason);
  absl::Time NextTimeout() const;
  Sequence* Find(uint64_t id) const;
  void SetState(bool ready, const absl::Status& error);
  bool stopping() const;

  const WorkerOptions options_;
  RequestQueue& queue_;
  const std::function<void()> state_changed_;
  const std::shared_ptr<Wakeup> wakeup_ = std::make_shared<Wakeup>();
  ExecutorClient client_;

  // Of the worker's thread.
  std::vector<std::unique_ptr<Sequence>> running_;  // oldest first
  std::deque<InFlight> in_flight_;

  mutable std::mutex mutex_;
  bool stopping_ = false;
  std::vector<uint64_t> cancelled_;
  ExecutorState state_;
  std::thread thread_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_EXECUTOR_WORKER_H_
