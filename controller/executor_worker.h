#ifndef FLEXQUANT_CONTROLLER_EXECUTOR_WORKER_H_
#define FLEXQUANT_CONTROLLER_EXECUTOR_WORKER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "controller/batch.h"
#include "controller/executor_client.h"
#include "controller/executor_figures.h"
#include "controller/request_queue.h"
#include "controller/sequence.h"
#include "controller/server.h"
#include "controller/steps_in_flight.h"
#include "controller/wakeup.h"

namespace flexquant::controller {

struct WorkerOptions {
  std::string controller_id;  // the same for all workers of a controller, and another one in each of its lives
  int lookahead = 1;
  uint32_t prefill_chunk_tokens = 256;
  double audit_rate = 0;  // share of the decode steps of policies that predict KL, in [0, 1]
  absl::Duration connect_timeout = absl::Seconds(5);
  absl::Duration min_backoff = absl::Milliseconds(50);
  absl::Duration max_backoff = absl::Seconds(2);
  // An executor that owes a step's result for longer counts as dead.
  absl::Duration step_timeout = absl::Minutes(1);
  // A request that loses this many executors in a row without a new token in between fails: it may be what kills them.
  int max_losses = 3;
  // A stream whose client reads nothing for so long ends.
  absl::Duration slow_reader_timeout = absl::Seconds(30);
};

// What is known of an executor.
struct ExecutorState {
  std::string address;
  bool ready = false;                              // a stream is open and takes new sequences
  bool draining = false;                           // a stream is open, but the executor is leaving
  std::optional<ExecutorDescription> description;  // of the last connection
  absl::Status last_error;                         // why it is not ready
};

// The end of a request that no executor could finish: ABORTED if it has sent tokens, else UNAVAILABLE with a retry
// hint.
absl::Status LostError(const Sequence& sequence, absl::string_view reason);

// One thread that keeps one executor connected and busy: takes requests from the queue as KV blocks allow, sends steps,
// hands results to the sequences. When the stream breaks, or the executor shuts down, its sequences go back to the
// queue, to go on with another executor or with this one's next life; it connects again with backoff.
class ExecutorWorker {
 public:
  // What the worker asks of the scheduler, from its own thread.
  struct Hooks {
    std::function<void()> state_changed;  // after every change of readiness, and again and again while not connected
    std::function<void()> returned;       // sequences have gone back to the queue
    // Whether another executor takes sequences.
    std::function<bool(const ExecutorWorker& self)> other_ready;
  };
  // `queue` must outlive this.
  ExecutorWorker(const ExecutorTarget& target, const ExpectedModel& expected, const WorkerOptions& options,
                 RequestQueue& queue, Hooks hooks);
  // Calls Stop.
  ~ExecutorWorker();

  void Start();
  // Fails the running sequences with UNAVAILABLE and ends the thread. Idempotent.
  void Stop();
  // An executor that is not listed any more takes no new sequences, hands over those it has if another one takes them,
  // and once it has none the thread ends; until then it may be listed again. Thread-safe.
  void SetListed(bool listed);
  // The thread has ended, or is about to, because the executor is not listed. Thread-safe.
  bool finished() const;
  const std::string& address() const { return client_.address(); }
  // Something is new: in the queue, a request that is to end, a client that reads again. Thread-safe.
  void Wake() { wakeup_->Notify(); }
  // Thread-safe.
  ExecutorState state() const;
  std::shared_ptr<const ExecutorFigures> figures() const { return shared_figures_; }

 private:
  void Run();
  void WaitToRetry(absl::Duration backoff);
  void Serve();
  // One round: results, cancellations, deadlines, admission, steps. Not OK when the stream must be given up.
  absl::Status ServeOnce(Batch& batch);
  absl::Status ApplyResult(const StepResult& result, Batch& batch, absl::Time now);
  // It has left its executor: it goes back to the queue, or fails if it has lost too many.
  void ReturnOrFail(std::unique_ptr<Sequence> sequence, absl::string_view reason);
  void EndUnwanted(Batch& batch, absl::Time now);
  // The executor shuts down or is not listed any more: its sequences move if they can.
  void Leave(Batch& batch);
  // The executor forgets sequences that have left it, and they wait for another turn.
  void ReturnToQueue(std::vector<std::unique_ptr<Sequence>> sequences, ExecutorFigures::Number& counted);
  void SendSteps(Batch& batch, absl::Time now);
  void CountStep(const std::vector<SequenceStep>& step, absl::Duration plan_time);
  void CountResult(const StepResult& result, absl::Duration since_sent);
  void CountBatch(const Batch& batch);
  // The stream is lost: its sequences go back to the queue.
  void GiveBack(Batch& batch, const absl::Status& reason);
  absl::Time NextTimeout(const Batch& batch) const;
  void SetState(bool ready, const absl::Status& error);
  bool stopping() const;
  // Whether there is something to do for this thread. False closes it for good.
  bool Continue();
  bool listed() const;

  const WorkerOptions options_;
  RequestQueue& queue_;
  const Hooks hooks_;
  const std::shared_ptr<Wakeup> wakeup_ = std::make_shared<Wakeup>();
  ExecutorClient client_;

  StepsInFlight in_flight_;  // of the worker's thread
  const std::shared_ptr<ExecutorFigures> shared_figures_ = std::make_shared<ExecutorFigures>();
  ExecutorFigures& figures_ = *shared_figures_;
  bool leaving_ = false;  // of the worker's thread: told to take no new sequences

  mutable std::mutex mutex_;
  bool stopping_ = false;
  bool listed_ = true;
  bool closed_ = false;  // not listed, has no sequence, and will not be listed again
  bool finished_ = false;
  ExecutorState state_;
  std::thread thread_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_EXECUTOR_WORKER_H_
