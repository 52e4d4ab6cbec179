#include "controller/request_queue.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace flexquant::controller {

absl::Status RequestQueue::Push(std::unique_ptr<Sequence>& sequence) {
  const std::lock_guard lock(mutex_);
  if (waiting_.size() >= options_.max_requests) {
    return absl::ResourceExhaustedError(
        absl::StrCat(waiting_.size(), " requests are waiting already, the most allowed; try again later"));
  }
  // One alone may always wait: it was found to fit into an executor.
  if (!waiting_.empty() && tokens_ + sequence->max_kv_tokens() > options_.max_tokens) {
    return absl::ResourceExhaustedError(absl::StrCat("the waiting requests have ", tokens_, " tokens, with this one ",
                                                     tokens_ + sequence->max_kv_tokens(), " of the ",
                                                     options_.max_tokens, " allowed; try again later"));
  }
  LevelTenant(sequence->tenant());
  tokens_ += sequence->max_kv_tokens();
  waiting_.push_back(std::move(sequence));
  return absl::OkStatus();
}

void RequestQueue::Return(std::unique_ptr<Sequence> sequence) {
  const uint64_t id = sequence->id();
  EndCause cause = EndCause::kNone;
  {
    const std::lock_guard lock(mutex_);
    tokens_ += sequence->max_kv_tokens();
    waiting_.push_back(std::move(sequence));
    // Whoever ended it before looked for it here in vain.
    cause = waiting_.back()->end_cause();
  }
  if (cause != EndCause::kNone) {
    Cancel(id, StatusOf(cause));
  }
}

uint64_t RequestQueue::ServedTokens(const std::string& tenant) const {
  const auto found = served_.find(tenant);
  return found == served_.end() ? 0 : found->second;
}

void RequestQueue::LevelTenant(const std::string& tenant) {
  uint64_t least = 0;
  bool others = false;
  for (const auto& waiting : waiting_) {
    if (waiting->tenant() == tenant) {
      return;
    }
    const uint64_t tokens = ServedTokens(waiting->tenant());
    least = others ? std::min(least, tokens) : tokens;
    others = true;
  }
  if (others) {
    uint64_t& tokens = served_[tenant];
    tokens = std::max(tokens, least);
  }
}

void RequestQueue::Served(const std::string& tenant, uint64_t tokens) {
  const std::lock_guard lock(mutex_);
  served_[tenant] += tokens;
}

bool RequestQueue::Before(const Sequence& a, const Sequence& b, absl::Time now) const {
  const auto begun = [](const Sequence& sequence) { return sequence.started() || sequence.has_answer_tokens(); };
  if (begun(a) != begun(b)) {
    return begun(a);
  }
  if (!begun(a)) {
    const auto level = [&](const Sequence& sequence) {
      return sequence.priority() + (now - sequence.arrival()) / options_.ageing;
    };
    if (level(a) != level(b)) {
      return level(a) > level(b);
    }
    const uint64_t served_a = ServedTokens(a.tenant());
    const uint64_t served_b = ServedTokens(b.tenant());
    if (served_a != served_b) {
      return served_a < served_b;
    }
  }
  return a.arrival() != b.arrival() ? a.arrival() < b.arrival() : a.id() < b.id();
}

void RequestQueue::Remove(std::deque<std::unique_ptr<Sequence>>::iterator place, std::unique_ptr<Sequence>* sequence) {
  *sequence = std::move(*place);
  waiting_.erase(place);
  tokens_ -= (*sequence)->max_kv_tokens();
}

std::unique_ptr<Sequence> RequestQueue::Pop(absl::Time now, absl::FunctionRef<Fit(const Sequence&)> fit) {
  const std::lock_guard lock(mutex_);
  std::vector<size_t> order(waiting_.size());  // a heap
  std::iota(order.begin(), order.end(), size_t{0});
  const auto later = [&](size_t a, size_t b) { return Before(*waiting_[b], *waiting_[a], now); };
  std::make_heap(order.begin(), order.end(), later);
  for (; !order.empty(); order.pop_back()) {
    const auto first = waiting_.begin() + static_cast<int64_t>(order.front());
    switch (fit(**first)) {
      case Fit::kNow: {
        std::unique_ptr<Sequence> sequence;
        Remove(first, &sequence);
        served_[sequence->tenant()] += sequence->known_tokens();
        return sequence;
      }
      case Fit::kNotNow:
        return nullptr;
      case Fit::kNever:
      case Fit::kElsewhere:
        std::pop_heap(order.begin(), order.end(), later);
    }
  }
  return nullptr;
}

std::deque<std::unique_ptr<Sequence>> RequestQueue::TakeIf(const std::function<bool(const Sequence&)>& leaves) {
  const std::lock_guard lock(mutex_);
  const auto first_leaving = std::stable_partition(
      waiting_.begin(), waiting_.end(), [&](const std::unique_ptr<Sequence>& waiting) { return !leaves(*waiting); });
  std::deque<std::unique_ptr<Sequence>> leaving(std::make_move_iterator(first_leaving),
                                                std::make_move_iterator(waiting_.end()));
  waiting_.erase(first_leaving, waiting_.end());
  for (const auto& sequence : leaving) {
    tokens_ -= sequence->max_kv_tokens();
  }
  return leaving;
}

bool RequestQueue::Cancel(uint64_t id, const absl::Status& reason) {
  const auto cancelled = TakeIf([&](const Sequence& sequence) { return sequence.id() == id; });
  for (const auto& sequence : cancelled) {
    sequence->Fail(reason);
  }
  return !cancelled.empty();
}

void RequestQueue::FailExpired(absl::Time now) {
  for (const auto& sequence : TakeIf([&](const Sequence& waiting) { return waiting.deadline() <= now; })) {
    sequence->Fail(absl::DeadlineExceededError("the deadline passed while the request waited for a free executor"));
  }
}

void RequestQueue::FailLargerThan(uint64_t max_tokens, const absl::Status& status) {
  for (const auto& sequence : TakeIf([&](const Sequence& waiting) { return waiting.max_kv_tokens() > max_tokens; })) {
    sequence->Fail(status);
  }
}

void RequestQueue::FailAll(const std::function<absl::Status(const Sequence&)>& reason) {
  for (const auto& sequence : TakeIf([](const Sequence& /*waiting*/) { return true; })) {
    sequence->Fail(reason(*sequence));
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

size_t RequestQueue::size() const {
  const std::lock_guard lock(mutex_);
  return waiting_.size();
}

uint64_t RequestQueue::tokens() const {
  const std::lock_guard lock(mutex_);
  return tokens_;
}

}  // namespace flexquant::controller
