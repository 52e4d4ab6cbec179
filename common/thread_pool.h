#ifndef FLEXQUANT_COMMON_THREAD_POOL_H_
#define FLEXQUANT_COMMON_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace flexquant {

// A fixed team for short parallel regions: the caller is member 0, workers spin briefly after a region and then sleep,
// so an idle process uses no CPU. Run is called by one thread at a time (not thread-safe); it must not be nested.
class ThreadPool {
 public:
  // Work that may be left out or done twice, for threads that wait: turn 0, 1, ... of a thread since it last had other
  // work, each a short piece, since others may wait for it to end; false = nothing more to do. Called by several
  // threads at once, and by workers between regions, too, so until the pool is gone.
  using WaitingWork = std::function<bool(int thread, int64_t turn)>;

  // `num_threads` >= 1, the caller included. `cpus`: logical processors that the threads stay on, one each, the caller
  // from its first region on; empty = where the system puts them.
  explicit ThreadPool(int num_threads, std::vector<int> cpus = {}, WaitingWork waiting_work = nullptr);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls body(thread) once for every thread in [0, num_threads) and returns when all are done.
  void Run(absl::FunctionRef<void(int thread)> body);

  // Splits [0, count) into contiguous ranges of near-equal size, one a thread; empty ranges are not called.
  void ParallelFor(int64_t count, absl::FunctionRef<void(int64_t begin, int64_t end, int thread)> body);

  // Cuts [0, count) into chunks of `chunk` >= 1. Each thread takes those of its own share in order, so that what it
  // reads is one stream, and then what is left of the others'. Unlike Run and ParallelFor it never waits for a worker
  // that has not begun, so that on a busy machine a region lasts no longer than the caller alone would need. Threads
  // that find no chunk do waiting work; workers go on with it behind the region.
  void ParallelChunks(int64_t count, int64_t chunk,
                      absl::FunctionRef<void(int64_t begin, int64_t end, int thread)> body);

  // Where in [0, count) a thread's own share of ParallelChunks begins; thread = num_threads(): count.
  int64_t ShareBegin(int64_t count, int64_t chunk, int thread) const {
    return ShareBegin(count, chunk, thread, num_threads_);
  }
  // The same of a pool of `num_threads`.
  static int64_t ShareBegin(int64_t count, int64_t chunk, int thread, int num_threads);

 private:
  void Work(int thread);
  void PinCaller();
  // Publishes a region of the given kind and wakes sleepers.
  void Begin(const absl::FunctionRef<void(int)>& body, bool may_miss);
  // Enters the open region that may be missed; false if there is none.
  bool Join();
  // The thread's next turn of waiting work; false if there is none.
  bool WorkWaiting(int thread);

  const int num_threads_;
  const std::vector<int> cpus_;
  std::thread::id pinned_caller_;
  std::vector<std::thread> workers_;
  const absl::FunctionRef<void(int)>* body_ = nullptr;
  // Regions begun, times two; odd while workers may miss the region.
  std::atomic<uint64_t> generation_{0};
  uint64_t open_generation_ = 0;  // of the latest region that may be missed; read by workers inside it
  std::atomic<int> running_{0};   // workers that a region of Run still needs
  // Workers inside a region that they may miss; negative when none may enter.
  std::atomic<int> joined_;
  // A cache line each: owners count without contention.
  struct alignas(64) Cursor {
    std::atomic<int64_t> next{0};  // chunk of the thread's share, or one behind it
  };
  struct alignas(64) Turn {
    int64_t next = 0;  // of the thread's waiting work; only its own
  };
  std::vector<Cursor> cursors_;
  std::vector<Turn> turns_;
  const WaitingWork waiting_work_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

// A logical processor of each physical core that this process may use, ascending; empty if the system does not say.
std::vector<int> PhysicalCpus();

// Physical cores this process may use, at least 1: those of its affinity mask, but no more than its container's quota
// of processor time (cgroup v2) keeps busy.
int DefaultNumThreads();

// Whole processors that a cgroup's `cpu.max` allows, at least 1; nothing if it sets no limit or cannot be read.
std::optional<int> CpuQuota(const std::string& path);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_THREAD_POOL_H_
