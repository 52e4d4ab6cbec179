#ifndef FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_RANK_GROUP_H_
#define FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_RANK_GROUP_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace flexquant::executor {

// What the ranks of one process tell each other through shared memory: a thread a rank, and every rank calls the same
// operations in the same order. A rank that fails ends the group: whoever waits wakes up, and every call from then on
// returns the status of the first rank that failed. Thread-safe, one thread a rank at a time.
class RankGroup {
 public:
  // 1 to kMaxTensorParallel ranks. A rank that waits longer than `timeout` for the others ends the group:
  // DEADLINE_EXCEEDED, naming the rank that did not come.
  RankGroup(int size, absl::Duration timeout);
  RankGroup(const RankGroup&) = delete;
  RankGroup& operator=(const RankGroup&) = delete;

  int size() const { return size_; }
  // Not while a rank waits.
  void set_timeout(absl::Duration timeout) { timeout_ = timeout; }

  // Returns when every rank has called it.
  absl::Status Barrier(int rank);
  // `data`, as long for every rank, becomes the sum over the ranks, added in their order: the same bits for all and
  // in every run.
  absl::Status AllReduceSum(int rank, absl::Span<float> data);
  // The `value` of every rank, in their order.
  absl::StatusOr<std::vector<uint64_t>> AllGather(int rank, uint64_t value);

  // Ends the group because of `rank`; `status` is not OK. The first call counts.
  void Abort(int rank, const absl::Status& status);
  // OK, or why the group ended, naming the rank.
  absl::Status status() const;

 private:
  // What a rank shows the others until the next barrier. Apart, so that ranks do not share cache lines.
  struct alignas(128) Slot {
    float* data = nullptr;
    uint64_t value = 0;
    std::atomic<uint64_t> barriers{0};  // entered
  };

  bool Passed(uint64_t generation) const { return generation_.load() != generation || ended_.load(); }
  absl::Status TimedOut(uint64_t generation);

  const int size_;
  absl::Duration timeout_;
  std::vector<Slot> slots_;
  std::atomic<int> arrived_{0};
  std::atomic<uint64_t> generation_{0};  // barriers passed
  std::atomic<bool> ended_{false};
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  absl::Status status_;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_TENSOR_PARALLEL_RANK_GROUP_H_
