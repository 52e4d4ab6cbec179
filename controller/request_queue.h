#ifndef FLEXQUANT_CONTROLLER_REQUEST_QUEUE_H_
#define FLEXQUANT_CONTROLLER_REQUEST_QUEUE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "controller/sequence.h"

namespace flexquant::controller {

struct QueueOptions {
  uint32_t max_requests = 256;
  // Prompt and most answer tokens of all waiting requests together.
  uint64_t max_tokens = 4'000'000;
  // A waiting request gains one level of priority each time this has passed, so that none waits for ever.
  absl::Duration ageing = absl::Seconds(10);
};

// Requests that wait for an executor. Those whose answer has begun, and that lost their executor, go first; then the
// highest priority, where waiting counts; of equal ones the tenant that has been served the fewest tokens; then the
// oldest. Thread-safe. Sequences that leave it with an error are told outside its lock.
class RequestQueue {
 public:
  explicit RequestQueue(const QueueOptions& options) : options_(options) {}

  // Takes `sequence`, or leaves it untouched and returns RESOURCE_EXHAUSTED: as much waits already as may.
  absl::Status Push(std::unique_ptr<Sequence>& sequence);
  // Takes back one that has been with an executor, whatever the limits.
  void Return(std::unique_ptr<Sequence> sequence);

  // Whether an executor takes a sequence: it is skipped if never, or if another executor is to have it, and if not now,
  // nobody overtakes it.
  enum class Fit { kNow, kNotNow, kNever, kElsewhere };
  // The sequence whose turn it is, if `fit` accepts it now; else null. `fit` is called with the lock held.
  std::unique_ptr<Sequence> Pop(absl::Time now, absl::FunctionRef<Fit(const Sequence&)> fit);
  // Tokens computed for a tenant.
  void Served(const std::string& tenant, uint64_t tokens);

  // Fails one sequence with `reason`; false if it is not here.
  bool Cancel(uint64_t id, const absl::Status& reason);
  // Fails those whose deadline has passed with DEADLINE_EXCEEDED.
  void FailExpired(absl::Time now);
  // Fails those that need more than `max_tokens` KV positions.
  void FailLargerThan(uint64_t max_tokens, const absl::Status& status);
  // Fails all with what `reason` says of each.
  void FailAll(const std::function<absl::Status(const Sequence&)>& reason);
  // Earliest deadline; InfiniteFuture if none.
  absl::Time NextDeadline() const;
  size_t size() const;
  // As QueueOptions.max_tokens counts.
  uint64_t tokens() const;

 private:
  std::deque<std::unique_ptr<Sequence>> TakeIf(const std::function<bool(const Sequence&)>& leaves);
  void Remove(std::deque<std::unique_ptr<Sequence>>::iterator place, std::unique_ptr<Sequence>* sequence);
  // Whether `a` goes before `b`. Needs mutex_.
  bool Before(const Sequence& a, const Sequence& b, absl::Time now) const;
  uint64_t ServedTokens(const std::string& tenant) const;
  // A tenant that comes back after a pause has no claim on what it did not use. Needs mutex_.
  void LevelTenant(const std::string& tenant);

  const QueueOptions options_;
  mutable std::mutex mutex_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  uint64_t tokens_ = 0;
  std::unordered_map<std::string, uint64_t> served_;  // tokens by tenant
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_REQUEST_QUEUE_H_
