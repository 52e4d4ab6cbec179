#include "common/thread_pool.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "common/check.h"
#include "common/spin.h"

namespace flexquant {
namespace {

// Added to joined_ when a region closes; far from what workers add.
constexpr int kClosed = -(1 << 30);

// Waits for what another thread is about to do.
template <typename Done>
void SpinUntil(Done done) {
  for (int spins = 0; !done(); ++spins) {
    if (spins < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

// Best effort: a processor may have been taken from the process since its list was made.
void PinThisThread(int cpu) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  CPU_SET(cpu, &mask);
  sched_setaffinity(0, sizeof(mask), &mask);
}

}  // namespace

ThreadPool::ThreadPool(int num_threads, std::vector<int> cpus, WaitingWork waiting_work)
    : num_threads_(std::max(1, num_threads)),
      cpus_(std::move(cpus)),
      joined_(kClosed),
      cursors_(static_cast<size_t>(num_threads_)),
      turns_(static_cast<size_t>(num_threads_)),
      waiting_work_(std::move(waiting_work)) {
  FQ_CHECK(cpus_.empty() || static_cast<int>(cpus_.size()) == num_threads_);
  for (int thread = 1; thread < num_threads_; ++thread) {
    workers_.emplace_back([this, thread] { Work(thread); });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
    generation_.fetch_add(2);
  }
  wake_.notify_all();
  for (auto& worker : workers_) {
    worker.join();
  }
}

void ThreadPool::PinCaller() {
  if (!cpus_.empty() && pinned_caller_ != std::this_thread::get_id()) {
    PinThisThread(cpus_[0]);
    pinned_caller_ = std::this_thread::get_id();
  }
}

void ThreadPool::Begin(const absl::FunctionRef<void(int)>& body, bool may_miss) {
  body_ = &body;
  const uint64_t even = (generation_.load(std::memory_order_relaxed) | 1U) + 1U;
  const uint64_t generation = may_miss ? even + 1 : even;
  if (may_miss) {
    open_generation_ = generation;
    joined_.store(0, std::memory_order_release);
  } else {
    running_.store(num_threads_ - 1);
  }
  generation_.store(generation);
  if (sleepers_.load() > 0) {
    // The lock orders this with a worker between its last look at generation_ and its sleep.
    { std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
  }
}

void ThreadPool::Run(absl::FunctionRef<void(int)> body) {
  PinCaller();
  if (num_threads_ == 1) {
    body(0);
    return;
  }
  Begin(body, /*may_miss=*/false);
  body(0);
  SpinUntil([this] { return running_.load(std::memory_order_acquire) == 0; });
}

void ThreadPool::ParallelChunks(int64_t count, int64_t chunk, absl::FunctionRef<void(int64_t, int64_t, int)> body) {
  PinCaller();
  if (num_threads_ == 1 || count <= chunk) {
    if (count > 0) {
      body(0, count, 0);
    }
    return;
  }
  for (int thread = 0; thread < num_threads_; ++thread) {
    cursors_[static_cast<size_t>(thread)].next.store(ShareBegin(count, chunk, thread), std::memory_order_relaxed);
  }
  const auto take_chunks = [&](int thread) {
    turns_[static_cast<size_t>(thread)].next = 0;
    for (int turn = 0; turn < num_threads_; ++turn) {
      const int owner = (thread + turn) % num_threads_;
      std::atomic<int64_t>& next = cursors_[static_cast<size_t>(owner)].next;
      const int64_t share_end = ShareBegin(count, chunk, owner + 1);
      for (int64_t begin = next.fetch_add(chunk, std::memory_order_relaxed); begin < share_end;
           begin = next.fetch_add(chunk, std::memory_order_relaxed)) {
        body(begin, std::min(share_end, begin + chunk), thread);
      }
    }
  };
  const auto work = [&](int thread) {
    take_chunks(thread);
    // Negative when the caller waits for this thread.
    while (joined_.load(std::memory_order_acquire) >= 0 && WorkWaiting(thread)) {
    }
  };
  const absl::FunctionRef<void(int)> region = work;
  Begin(region, /*may_miss=*/true);
  take_chunks(0);
  joined_.fetch_add(kClosed, std::memory_order_acq_rel);
  const auto all_left = [this] { return joined_.load(std::memory_order_acquire) == kClosed; };
  while (!all_left() && WorkWaiting(0)) {
  }
  SpinUntil(all_left);
}

int64_t ThreadPool::ShareBegin(int64_t count, int64_t chunk, int thread, int num_threads) {
  const int64_t chunks = (count + chunk - 1) / chunk;
  return std::min(count, chunks * thread / num_threads * chunk);
}

void ThreadPool::ParallelFor(int64_t count, absl::FunctionRef<void(int64_t, int64_t, int)> body) {
  const auto range = [&](int thread) {
    const int64_t begin = count * thread / num_threads_;
    const int64_t end = count * (thread + 1) / num_threads_;
    if (begin < end) {
      body(begin, end, thread);
    }
  };
  if (count == 1) {
    body(0, 1, 0);
    return;
  }
  Run(range);
}

bool ThreadPool::Join() {
  int joined = joined_.load(std::memory_order_acquire);
  while (joined >= 0) {
    if (joined_.compare_exchange_weak(joined, joined + 1, std::memory_order_acq_rel)) {
      return true;
    }
  }
  return false;
}

bool ThreadPool::WorkWaiting(int thread) {
  return waiting_work_ != nullptr && waiting_work_(thread, turns_[static_cast<size_t>(thread)].next++);
}

void ThreadPool::Work(int thread) {
  if (!cpus_.empty()) {
    PinThisThread(cpus_[static_cast<size_t>(thread)]);
  }
  uint64_t seen = 0;
  bool works_waiting = false;
  while (true) {
    for (int spins = 0; generation_.load(std::memory_order_acquire) <= seen && spins < kSpins; ++spins) {
      works_waiting = works_waiting && WorkWaiting(thread);
      if (!works_waiting) {
        Pause();
      }
    }
    if (generation_.load() <= seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, [&] { return generation_.load() > seen; });
      sleepers_.fetch_sub(1);
    }
    seen = generation_.load();
    if (stop_.load()) {
      return;
    }
    // A region of Run cannot end without this thread, so `seen` is still it. One that may be missed can be over by now
    // and a later one open, even before its generation is published: it is the one inside that is not to be entered
    // again.
    if ((seen & 1U) == 0) {
      (*body_)(thread);
      running_.fetch_sub(1, std::memory_order_release);
    } else if (Join()) {
      seen = open_generation_;
      (*body_)(thread);
      joined_.fetch_sub(1, std::memory_order_release);
      works_waiting = true;
    }
  }
}

std::optional<int> CpuQuota(const std::string& path) {
  // "max 100000" or microseconds of processor time in a period of so many.
  std::ifstream file(path);
  double quota = 0;
  double period = 0;
  if (!(file >> quota >> period) || quota <= 0 || period <= 0) {
    return std::nullopt;
  }
  return static_cast<int>(std::clamp(quota / period, 1.0, 1e6));
}

std::vector<int> PhysicalCpus() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  // The main thread's mask: this one may be pinned already.
  if (sched_getaffinity(getpid(), sizeof(mask), &mask) != 0) {
    return {};
  }
  // Hyper-threads of a core list the same siblings.
  std::set<std::string> cores;
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mask)) {
      continue;
    }
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    std::string siblings;
    if (!(file >> siblings) || cores.insert(siblings).second) {
      cpus.push_back(cpu);
    }
  }
  return cpus;
}

int DefaultNumThreads() {
  const size_t cores = PhysicalCpus().size();
  const int all = std::max(1, static_cast<int>(cores > 0 ? cores : std::thread::hardware_concurrency()));
  return std::min(all, CpuQuota("/sys/fs/cgroup/cpu.max").value_or(all));
}

}  // namespace flexquant
