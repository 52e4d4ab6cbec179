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
#include "absl/time/time.h"
#include "controller/balancer.h"
#include "controller/executor_client.h"
#include "controller/executor_figures.h"
#include "controller/executor_rounds.h"
#include "controller/request_queue.h"
#include "controller/server.h"
#include "controller/wakeup.h"
#include "controller/worker_options.h"

namespace flexquant::controller {

// What is known of an executor.
struct ExecutorState {
  std::string address;
  bool ready = false;                              // a stream is open and takes new sequences
  bool draining = false;                           // a stream is open, but the executor is leaving
  std::optional<ExecutorDescription> description;  // of the last connection
  absl::Status last_error;                         // why it is not ready
  std::shared_ptr<const ExecutorFigures> figures;  // go on counting
};

// One thread that keeps one executor connected and busy (ExecutorRounds). When the stream breaks, or the executor shuts
// down, its sequences go back to the queue, to go on with another executor or with this one's next life; it connects
// again with backoff.
class ExecutorWorker {
 public:
  // What the worker asks of the scheduler, from its own thread.
  struct Hooks {
    std::function<void()> state_changed;  // after every change of readiness, and again and again while not connected
    std::function<void()> returned;       // sequences have gone back to the queue
    // Whether another executor takes sequences.
    std::function<bool(const ExecutorWorker& self)> other_ready;
  };
  // `queue` and `balancer` must outlive this.
  ExecutorWorker(const ExecutorTarget& target, const ExpectedModel& expected, const WorkerOptions& options,
                 RequestQueue& queue, Balancer& balancer, Hooks hooks);
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
  void SetState(bool ready, bool draining, const absl::Status& error);
  bool stopping() const;
  // Whether there is something to do for this thread. False closes it for good.
  bool Continue();
  bool listed() const;

  const WorkerOptions options_;
  RequestQueue& queue_;
  Balancer& balancer_;
  const Hooks hooks_;
  const std::shared_ptr<Wakeup> wakeup_ = std::make_shared<Wakeup>();
  ExecutorClient client_;

  const std::shared_ptr<ExecutorFigures> shared_figures_ = std::make_shared<ExecutorFigures>();

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
