#ifndef FLEXQUANT_EXECUTOR_ENGINE_H_
#define FLEXQUANT_EXECUTOR_ENGINE_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <mutex>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "executor/model_runner.h"

namespace flexquant::executor {

// The one runner behind all streams: steps run one at a time, first come, first served. Thread-safe.
class Engine {
 public:
  // `runner` must outlive the engine.
  explicit Engine(ModelRunner& runner);

  const RunnerInfo& info() const { return runner_.info(); }
  // Random id of this process's engine: the epoch.
  const std::string& instance_id() const { return instance_id_; }
  uint64_t steps_done() const { return steps_done_.load(); }
  // When the step that runs now began; InfiniteFuture if none runs.
  absl::Time running_since() const {
    const int64_t since = running_since_.load();
    return since == kIdle ? absl::InfiniteFuture() : absl::FromUnixNanos(since);
  }
  // Of the runner.
  absl::Status Health() const { return runner_.Health(); }

  // Set once: no new sequences are accepted.
  void Drain() { draining_.store(true); }
  bool draining() const { return draining_.load(); }

  // Runs a step; `consume` reads the output before the next step may start. `started` is called when the step's turn
  // has come.
  absl::Status RunStep(const StepBatch& batch, absl::FunctionRef<void()> started,
                       absl::FunctionRef<void(const StepOutput&)> consume);

 private:
  static constexpr int64_t kIdle = std::numeric_limits<int64_t>::max();

  ModelRunner& runner_;
  const std::string instance_id_;
  std::atomic<uint64_t> steps_done_{0};
  std::atomic<bool> draining_{false};
  std::atomic<int64_t> running_since_{kIdle};

  std::mutex mutex_;
  std::condition_variable turn_;
  uint64_t next_ticket_ = 0;
  uint64_t now_serving_ = 0;
  StepOutput output_;  // of the step being served
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_ENGINE_H_
