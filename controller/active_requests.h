#ifndef FLEXQUANT_CONTROLLER_ACTIVE_REQUESTS_H_
#define FLEXQUANT_CONTROLLER_ACTIVE_REQUESTS_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace flexquant::controller {

// Why somebody outside wants a request to end.
enum class EndCause { kNone, kCancelled, kAborted, kSuperseded };

// The status of a request that ends for this cause; `cause` is not kNone.
absl::Status StatusOf(EndCause cause);

// A request that has not ended. Whoever holds its sequence looks at the cause in each of its rounds: so it is found
// wherever it is, also on its way from one executor to another. Thread-safe.
class ActiveRequest {
 public:
  // `name` is what client and tenant know it by.
  ActiveRequest(uint64_t id, std::string name) : id_(id), name_(std::move(name)) {}
  uint64_t id() const { return id_; }
  const std::string& name() const { return name_; }
  EndCause end_cause() const { return cause_.load(std::memory_order_relaxed); }
  // The first cause stands; false if there is one.
  bool End(EndCause cause) {
    EndCause none = EndCause::kNone;
    return cause_.compare_exchange_strong(none, cause);
  }

 private:
  const uint64_t id_;
  const std::string name_;
  std::atomic<EndCause> cause_{EndCause::kNone};
};

// The requests that have not ended, by id and by the name that client and tenant know them by. Thread-safe.
class ActiveRequests : public std::enable_shared_from_this<ActiveRequests> {
 public:
  // Counts until the returned object is destroyed; is found by its id, and by its name once it has that.
  std::shared_ptr<ActiveRequest> Add(uint64_t id, const std::string& tenant, const std::string& request_id);
  // `request`, which was added here, has been accepted and is found by its name from now on. Returns the one that was
  // before, if it has not ended; it keeps counting.
  std::shared_ptr<ActiveRequest> TakeName(const ActiveRequest& request);
  std::shared_ptr<ActiveRequest> Find(uint64_t id) const;
  std::shared_ptr<ActiveRequest> Find(const std::string& tenant, const std::string& request_id) const;
  uint64_t count() const;
  void WaitUntilNone(absl::Time deadline);

 private:
  void Remove(const ActiveRequest& request);

  mutable std::mutex mutex_;
  std::condition_variable none_;
  std::unordered_map<uint64_t, std::weak_ptr<ActiveRequest>> by_id_;
  std::unordered_map<std::string, uint64_t> by_name_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_ACTIVE_REQUESTS_H_
