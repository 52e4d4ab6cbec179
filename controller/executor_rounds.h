#ifndef FLEXQUANT_CONTROLLER_EXECUTOR_ROUNDS_H_
#define FLEXQUANT_CONTROLLER_EXECUTOR_ROUNDS_H_

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "controller/balancer.h"
#include "controller/batch.h"
#include "controller/executor_figures.h"
#include "controller/executor_link.h"
#include "controller/request_queue.h"
#include "controller/sequence.h"
#include "controller/step_times.h"
#include "controller/steps_in_flight.h"
#include "controller/worker_options.h"

namespace flexquant::controller {

// The end of a request that no executor could finish: ABORTED if it has sent tokens, else UNAVAILABLE with a retry
// hint.
absl::Status LostError(const Sequence& sequence, absl::string_view reason);

// What a worker does on one stream, round by round: takes requests from the queue as KV blocks and the balancer allow,
// sends steps, hands results to the sequences. Has no thread and no clock, and knows the network only as a link, so
// that a simulation runs the same. Not thread-safe.
class ExecutorRounds {
 public:
  struct Hooks {
    std::function<void()> wake;      // makes another round soon; called from any thread
    std::function<void()> returned;  // sequences have gone back to the queue
    // Whether another executor takes sequences.
    std::function<bool()> other_ready;
    // The executor takes new sequences, or takes none any more, which `reason` says why.
    std::function<void(bool ready, const absl::Status& reason)> ready_changed;
  };
  // All references must outlive this.
  ExecutorRounds(const ExecutorDescription& description, const WorkerOptions& options, ExecutorLink& link,
                 RequestQueue& queue, Balancer& balancer, ExecutorFigures& figures, Hooks hooks);
  // GiveBack must have been called, or no sequence be left.
  ~ExecutorRounds();
  ExecutorRounds(const ExecutorRounds&) = delete;
  ExecutorRounds& operator=(const ExecutorRounds&) = delete;

  // One round: results, cancellations, deadlines, admission, steps. An executor that is not `listed` any more is
  // treated like one that shuts down. Not OK when the stream must be given up.
  absl::Status Round(bool listed, absl::Time now);
  // When the next round is due if nothing happens before.
  absl::Time NextTimeout() const;
  // It takes no new sequences.
  bool leaving() const { return !place_.has_value(); }
  bool empty() const { return batch_.running().empty(); }
  // The stream is lost, or the controller stops: the sequences go back to the queue, or fail.
  void GiveBack(const absl::Status& reason, bool stopping);

 private:
  absl::Status ApplyResult(const StepResult& result, absl::Time now);
  // It has left its executor: it goes back to the queue, or fails if it has lost too many.
  void ReturnOrFail(std::unique_ptr<Sequence> sequence, absl::string_view reason);
  void EndUnwanted(absl::Time now);
  void Join();
  // The executor shuts down or is not listed any more: its sequences move if they can.
  void Leave();
  // The executor forgets sequences that have left it, and they wait for another turn.
  void ReturnToQueue(std::vector<std::unique_ptr<Sequence>> sequences, ExecutorFigures::Number& counted);
  void SendSteps(absl::Time now);
  ExecutorLoad Load() const;
  void CountStep(const std::vector<SequenceStep>& step, absl::Duration plan_time);
  void CountResult(const StepResult& result, const StepsInFlight::Step& step, absl::Duration since_sent);
  void CountBatch();

  const WorkerOptions& options_;
  ExecutorLink& link_;
  RequestQueue& queue_;
  Balancer& balancer_;
  ExecutorFigures& figures_;
  const Hooks hooks_;
  Batch batch_;
  StepsInFlight in_flight_;
  StepTimes step_times_;
  std::optional<uint32_t> place_;                   // in the balancer
  absl::Time look_again_ = absl::InfiniteFuture();  // at requests that were left to others
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_EXECUTOR_ROUNDS_H_
