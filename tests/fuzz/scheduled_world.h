#ifndef FLEXQUANT_TESTS_FUZZ_SCHEDULED_WORLD_H_
#define FLEXQUANT_TESTS_FUZZ_SCHEDULED_WORLD_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "controller/active_requests.h"
#include "controller/batch.h"
#include "controller/model_package.h"
#include "controller/plan_ids.h"
#include "controller/request_queue.h"
#include "controller/steps_in_flight.h"
#include "executor/engine.h"
#include "executor/session.h"
#include "tests/fuzz/checked_sink.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/hash_runner.h"

namespace flexquant::fuzz {

// A queue and two workers with their executors, in one thread and with a clock of its own: ExecutorWorker's rounds, but
// for the network. Ends the process when an invariant breaks.
class ScheduledWorld {
 public:
  // Sizes and options from the input.
  explicit ScheduledWorld(FuzzInput& bytes);
  ~ScheduledWorld();

  void Submit(FuzzInput& bytes);
  // `request` counts round.
  void Cancel(uint32_t request);
  void SetCongested(uint32_t request, bool congested);
  void PassTime(absl::Duration time) { now_ += time; }
  // The stream breaks; another one is opened at once, to an executor that has forgotten everything.
  void Lose(uint32_t executor);
  void Drain(uint32_t executor);
  // The executor's next result says something else.
  void Falsify(uint32_t executor, FuzzInput& bytes);
  // A round of the worker, for which the next `results` results have arrived.
  void Round(uint32_t executor, uint32_t results);
  // Clients read, executors live, nobody lies: every request ends.
  void FinishAll();

 private:
  struct Request {
    std::shared_ptr<controller::ActiveRequest> active;
    std::shared_ptr<CheckedSink> sink;
  };
  // One life of an executor, with the worker's side of its stream.
  struct Stream;

  controller::BatchLimits Limits(FuzzInput& bytes) const;
  std::unique_ptr<controller::GenerationSpec> MakeSpec(FuzzInput& bytes);
  CheckedSink::OnToken Expect(const controller::GenerationSpec& spec);
  std::unique_ptr<Stream> Open() const;
  absl::Status ServeOnce(Stream& stream, uint32_t results);
  absl::Status ApplyResult(Stream& stream, const executor::v1::StepResult& message);
  void EndUnwanted(Stream& stream);
  void SendSteps(Stream& stream);
  void ReturnOrFail(std::unique_ptr<controller::Sequence> sequence);
  void Return(Stream& stream, std::vector<std::unique_ptr<controller::Sequence>> sequences);
  static void CheckBlocks(const Stream& stream);

  controller::ModelPackage& model_;
  executor::RunnerInfo info_;
  controller::BatchLimits limits_;
  uint32_t lookahead_;
  absl::Time now_;
  bool lied_ = false;  // from then on tokens are what they are
  uint64_t last_id_ = 0;
  std::shared_ptr<controller::ActiveRequests> active_;
  std::unique_ptr<controller::RequestQueue> queue_;
  std::vector<Request> requests_;
  std::vector<std::unique_ptr<Stream>> streams_;
};

}  // namespace flexquant::fuzz

#endif  // FLEXQUANT_TESTS_FUZZ_SCHEDULED_WORLD_H_
