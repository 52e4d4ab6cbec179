#include "controller/request_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace flexquant::controller {

bool RequestQueue::Push(std::unique_ptr<Sequence>& sequence) {
  const std::lock_guard lock(mutex_);
  if (waiting_.size() >= capacity_) {
    return false;
  }
  waiting_.push_back(std::move(sequence));
  return true;
}

std::unique_ptr<Sequence> RequestQueue::PopIf(const std::function<bool(const Sequence&)>& fits) {
  const std::lock_guard lock(mutex_);
  if (waiting_.empty() || !fits(*waiting_.front())) {
    return nullptr;
  }
  std::unique_ptr<Sequence> first = std::move(waiting_.front());
  waiting_.pop_front();
  return first;
}

std::deque<std::unique_ptr<Sequence>> RequestQueue::TakeIf(const std::function<bool(const Sequence&)>& leaves) {
  const std::lock_guard lock(mutex_);
  const auto first_leaving = std::stable_partition(
      waiting_.begin(), waiting_.end(), [&](const std::unique_ptr<Sequence>& waiting) { return !leaves(*waiting); });
  std::deque<std::unique_ptr<Sequence>> leaving(std::make_move_iterator(first_leaving),
                                                std::make_move_iterator(waiting_.end()));
  waiting_.erase(first_leaving, waiting_.end());
  return leaving;
}

bool RequestQueue::Cancel(uint64_t id) {
  const auto cancelled = TakeIf([&](const Sequence& sequence) { return sequence.id() == id; });
  for (const auto& sequence : cancelled) {
    sequence->Fail(absl::CancelledError("the request was cancelled while it waited"));
  }
  return !cancelled.empty();
}

void RequestQueue::FailExpired(absl::Time now) {
  for (const auto& sequence : TakeIf([&](const Sequence& waiting) { return waiting.deadline() <= now; })) {
    sequence->Fail(absl::DeadlineExceededError("the deadline passed while the request waited for a free executor"));
  }
}

void RequestQueue::FailLargerThan(uint64_t max_tokens, const absl::Status& status) {
  for (const auto& sequence : TakeIf([&](const Sequence& waiting) { return waiting.kv_tokens() > max_tokens; })) {
    sequence->Fail(status);
  }
}

absl::Time RequestQueue::NextDeadline() const {
  const std::lock_guard lock(mutex_);
  absl::Time next = absl::InfiniteFuture();
  for (const auto& sequence : waiting_) {
    next = std::min(next, sequence->deadline());
  }
  return next;
}

}  // namespace flexquant::controller
