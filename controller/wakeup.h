#ifndef FLEXQUANT_CONTROLLER_WAKEUP_H_
#define FLEXQUANT_CONTROLLER_WAKEUP_H_

#include <condition_variable>
#include <mutex>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace flexquant::controller {

// Wakes one waiting thread; a notification before the wait is not lost. Thread-safe.
class Wakeup {
 public:
  void Notify() {
    const std::lock_guard lock(mutex_);
    notified_ = true;
    changed_.notify_one();
  }
  // Returns at the next notification, or at `deadline`.
  void WaitUntil(absl::Time deadline) {
    std::unique_lock lock(mutex_);
    const auto notified = [this] { return notified_; };
    if (deadline == absl::InfiniteFuture()) {
      changed_.wait(lock, notified);
    } else {
      changed_.wait_until(lock, absl::ToChronoTime(deadline), notified);
    }
    notified_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool notified_ = false;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_WAKEUP_H_
