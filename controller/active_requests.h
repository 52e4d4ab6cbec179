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
  explicit ActiveRequest(uint64_t id) : id_(id) {}
  uint64_t id() const { return id_; }
  EndCause end_cause() const { return cause_.load(std::memory_order_relaxed); }
  // The first cause stands; false if there is one.
  bool End(EndCause cause) {
    EndCause none = EndCause::kNone;
    return cause_.compare_exchange_strong(none, cause);
  }

 private:
  const uint64_t id_;
  std::atomic<EndCause> cause_{EndCause::kNone};
};

// The requests that have not ended, by id and by the name that client and tenant know them by. Thread-safe.
class ActiveRequests : public std::enable_shared_from_this<ActiveRequests> {
 public:
  // Counts until the returned object is destroyed; is found by its id, and by its name once it has that.
  std::shared_ptr<ActiveRequest> Add(uint64_t id, const std::string& tenant, const std::string& request_id);
  // The request has been accepted and is found by this name from now on, unless it has ended. Returns the one that had
  // the name before and has not ended, which keeps counting.
  std::shared_ptr<ActiveRequest> TakeName(uint64_t id, const std::string& tenant, const std::string& request_id);
  std::shared_ptr<ActiveRequest> Find(uint64_t id) const;
  std::shared_ptr<ActiveRequest> Find(const std::string& tenant, const std::string& request_id) const;
  uint64_t count() const;
  void WaitUntilNone(absl::Time deadline);

 private:
  void Remove(const ActiveRequest* request, const std::string& name);

  mutable std::mutex mutex_;
  std::condition_variable none_;
  std::unordered_map<uint64_t, std::weak_ptr<ActiveRequest>> by_id_;
  std::unordered_map<std::string, uint64_t> by_name_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_ACTIVE_REQUESTS_H_
