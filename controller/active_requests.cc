#include "controller/active_requests.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/grpc_status.h"

namespace flexquant::controller {
namespace {

std::string NameOf(const std::string& tenant, const std::string& request_id) {
  return absl::StrCat(tenant, absl::string_view("\0", 1), request_id);
}

}  // namespace

absl::Status StatusOf(EndCause cause) {
  switch (cause) {
    case EndCause::kAborted:
      return WithErrorInfo(absl::CancelledError("the request was ended by Abort"), "ABORTED_BY_REQUEST_ID");
    case EndCause::kSuperseded:
      return WithErrorInfo(absl::AbortedError("a newer call with the same request_id took this one's place"),
                           "SUPERSEDED");
    default:
      return absl::CancelledError("the request was cancelled");
  }
}

std::shared_ptr<ActiveRequest> ActiveRequests::Add(uint64_t id, const std::string& tenant,
                                                   const std::string& request_id) {
  const std::shared_ptr<ActiveRequest> request(new ActiveRequest(id, NameOf(tenant, request_id)),
                                               [self = shared_from_this()](ActiveRequest* ended) {
                                                 self->Remove(*ended);
                                                 delete ended;
                                               });
  const std::lock_guard lock(mutex_);
  by_id_[id] = request;
  return request;
}

std::shared_ptr<ActiveRequest> ActiveRequests::TakeName(const ActiveRequest& request) {
  const std::lock_guard lock(mutex_);
  const auto [named, is_new] = by_name_.try_emplace(request.name(), request.id());
  return is_new ? nullptr : by_id_.at(std::exchange(named->second, request.id())).lock();
}

void ActiveRequests::Remove(const ActiveRequest& request) {
  const std::lock_guard lock(mutex_);
  by_id_.erase(request.id());
  if (const auto named = by_name_.find(request.name()); named != by_name_.end() && named->second == request.id()) {
    by_name_.erase(named);
  }
  none_.notify_all();
}

std::shared_ptr<ActiveRequest> ActiveRequests::Find(uint64_t id) const {
  const std::lock_guard lock(mutex_);
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second.lock();
}

std::shared_ptr<ActiveRequest> ActiveRequests::Find(const std::string& tenant, const std::string& request_id) const {
  const std::lock_guard lock(mutex_);
  const auto named = by_name_.find(NameOf(tenant, request_id));
  return named == by_name_.end() ? nullptr : by_id_.at(named->second).lock();
}

uint64_t ActiveRequests::count() const {
  const std::lock_guard lock(mutex_);
  return by_id_.size();
}

void ActiveRequests::WaitUntilNone(absl::Time deadline) {
  std::unique_lock lock(mutex_);
  const auto none = [this] { return by_id_.empty(); };
  if (deadline == absl::InfiniteFuture()) {
    none_.wait(lock, none);
  } else {
    none_.wait_until(lock, absl::ToChronoTime(deadline), none);
  }
}

}  // namespace flexquant::controller
