#include "client/cli/memory_read.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

// A ceiling: what the memory does at its best.
constexpr int kPasses = 8;
// How far ahead memory is asked for, as the kernels do: without it a core waits for what its own prefetchers ask for.
constexpr size_t kAheadWords = 512;

// Several sums, so that none waits for the one before; the compiler makes vectors of them.
uint64_t Sum(absl::Span<const uint64_t> words) {
  std::array<uint64_t, 16> sums{};
  for (size_t i = 0; i + sums.size() <= words.size(); i += sums.size()) {
    // 128 bytes; past the end it does nothing.
    __builtin_prefetch(words.data() + i + kAheadWords, 0, 2);
    __builtin_prefetch(words.data() + i + kAheadWords + 8, 0, 2);
    for (size_t lane = 0; lane < sums.size(); ++lane) {
      sums[lane] += words[i + lane];
    }
  }
  return std::accumulate(sums.begin(), sums.end(), uint64_t{0});
}

}  // namespace

MemoryRead::MemoryRead(executor::LazyBuffer memory, int threads) : memory_(std::move(memory)), threads_(threads) {
  threads_.Run([&](int thread) { std::fill(Part(thread).begin(), Part(thread).end(), 1); });
}

absl::StatusOr<std::unique_ptr<MemoryRead>> MemoryRead::Create(uint64_t bytes, int threads) {
  FQ_ASSIGN_OR_RETURN(executor::LazyBuffer memory, executor::LazyBuffer::Allocate(bytes, "measuring how fast it is"));
  memory.PreferHugePages();
  return std::unique_ptr<MemoryRead>(new MemoryRead(std::move(memory), threads));
}

absl::Span<uint64_t> MemoryRead::Part(int thread) const {
  const uint64_t words = memory_.bytes() / sizeof(uint64_t) / static_cast<uint64_t>(threads_.num_threads());
  return {memory_.as<uint64_t>() + words * static_cast<uint64_t>(thread), words};
}

double MemoryRead::BytesPerSecond() {
  std::vector<uint64_t> sums(static_cast<size_t>(threads_.num_threads()));
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto begin = std::chrono::steady_clock::now();
    threads_.Run([&](int thread) { sums[static_cast<size_t>(thread)] = Sum(Part(thread)); });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    sum_ = std::accumulate(sums.begin(), sums.end(), uint64_t{0});
    best = std::max(best, static_cast<double>(memory_.bytes()) / seconds.count());
  }
  return best;
}

}  // namespace flexquant::cli
