#ifndef FLEXQUANT_CONTROLLER_REQUEST_QUEUE_H_
#define FLEXQUANT_CONTROLLER_REQUEST_QUEUE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "absl/time/time.h"
#include "controller/sequence.h"

namespace flexquant::controller {

// Requests that wait for an executor, first come first served, at most `capacity`. Thread-safe. Sequences that leave it
// with an error are told outside its lock.
class RequestQueue {
 public:
  explicit RequestQueue(uint32_t capacity) : capacity_(capacity) {}

  // Takes `sequence` and returns true, or leaves it untouched and returns false when full.
  bool Push(std::unique_ptr<Sequence>& sequence);
  // The first sequence if `fits` accepts it, else null: nobody overtakes.
  std::unique_ptr<Sequence> PopIf(const std::function<bool(const Sequence&)>& fits);
  // Fails one sequence with CANCELLED; false if it is not here.
  bool Cancel(uint64_t id);
  // Fails those whose deadline has passed with DEADLINE_EXCEEDED.
  void FailExpired(absl::Time now);
  // Fails those that need more than `max_tokens` KV positions.
  void FailLargerThan(uint64_t max_tokens, const absl::Status& status);
  // Earliest deadline; InfiniteFuture if none.
  absl::Time NextDeadline() const;
  uint32_t capacity() const { return capacity_; }

 private:
  std::deque<std::unique_ptr<Sequence>> TakeIf(const std::function<bool(const Sequence&)>& leaves);

  const uint32_t capacity_;
  mutable std::mutex mutex_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_REQUEST_QUEUE_H_
