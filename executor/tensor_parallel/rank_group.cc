#include "executor/tensor_parallel/rank_group.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/check.h"
#include "common/spin.h"
#include "common/status_macros.h"
#include "executor/tensor_parallel/shard.h"

namespace flexquant::executor {
namespace {

// Ranks sum whole cache lines, so that no two write one.
constexpr size_t kLineFloats = 16;

}  // namespace

RankGroup::RankGroup(int size, absl::Duration timeout)
    : size_(size), timeout_(timeout), slots_(static_cast<size_t>(size)) {
  FQ_CHECK(size >= 1 && size <= kMaxTensorParallel);
}

absl::Status RankGroup::Barrier(int rank) {
  if (ended_.load()) {
    return status();
  }
  // Cannot change before this rank arrives.
  const uint64_t generation = generation_.load();
  slots_[static_cast<size_t>(rank)].barriers.store(generation + 1);
  if (arrived_.fetch_add(1) + 1 == size_) {
    arrived_.store(0);
    {
      // Under the lock, so that no rank checks before and sleeps after.
      const std::lock_guard lock(mutex_);
      generation_.store(generation + 1);
    }
    wake_.notify_all();
    return absl::OkStatus();
  }
  for (int spins = 0; spins < kSpins && !Passed(generation); ++spins) {
    Pause();
  }
  if (!Passed(generation)) {
    std::unique_lock lock(mutex_);
    const auto deadline = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(timeout_);
    if (!wake_.wait_until(lock, deadline, [&] { return Passed(generation); })) {
      lock.unlock();
      return TimedOut(generation);
    }
  }
  return generation_.load() != generation ? absl::OkStatus() : status();
}

absl::Status RankGroup::TimedOut(uint64_t generation) {
  const auto late = std::find_if(slots_.begin(), slots_.end(),
                                 [generation](const Slot& slot) { return slot.barriers.load() <= generation; });
  Abort(static_cast<int>(late - slots_.begin()) % size_,
        absl::DeadlineExceededError(
            absl::StrCat("the other ranks waited ", absl::FormatDuration(timeout_), " for it: it hangs")));
  return status();
}

absl::Status RankGroup::AllReduceSum(int rank, absl::Span<float> data) {
  slots_[static_cast<size_t>(rank)].data = data.data();
  FQ_RETURN_IF_ERROR(Barrier(rank));
  // Every rank sums a part of the elements and gives it to all.
  const size_t lines = (data.size() + kLineFloats - 1) / kLineFloats;
  const auto cut = [&](size_t part) {
    return std::min(data.size(), lines * part / static_cast<size_t>(size_) * kLineFloats);
  };
  const size_t end = cut(static_cast<size_t>(rank) + 1);
  std::array<float, 16 * kLineFloats> sum;
  for (size_t begin = cut(static_cast<size_t>(rank)); begin < end; begin += sum.size()) {
    const size_t count = std::min(sum.size(), end - begin);
    std::copy_n(slots_[0].data + begin, count, sum.begin());
    for (size_t r = 1; r < slots_.size(); ++r) {
      const float* from = slots_[r].data + begin;
      for (size_t i = 0; i < count; ++i) {
        sum[i] += from[i];
      }
    }
    for (const Slot& slot : slots_) {
      std::copy_n(sum.begin(), count, slot.data + begin);
    }
  }
  return Barrier(rank);
}

absl::StatusOr<std::vector<uint64_t>> RankGroup::AllGather(int rank, uint64_t value) {
  slots_[static_cast<size_t>(rank)].value = value;
  FQ_RETURN_IF_ERROR(Barrier(rank));
  std::vector<uint64_t> values;
  values.reserve(slots_.size());
  for (const Slot& slot : slots_) {
    values.push_back(slot.value);
  }
  // Nobody shows its next value before all have read this one.
  FQ_RETURN_IF_ERROR(Barrier(rank));
  return values;
}

void RankGroup::Abort(int rank, const absl::Status& status) {
  FQ_CHECK(!status.ok());
  {
    const std::lock_guard lock(mutex_);
    if (ended_.load()) {
      return;
    }
    status_ = absl::Status(status.code(),
                           absl::StrCat("rank ", rank, " of ", size_, " failed: ", std::string(status.message())));
    ended_.store(true);
  }
  wake_.notify_all();
}

absl::Status RankGroup::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

}  // namespace flexquant::executor
