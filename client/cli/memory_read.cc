#include "client/cli/memory_read.h"

#include <array>
#include <chrono>
#include <cstddef>
#include <numeric>

namespace flexquant::cli {
namespace {

// Several sums, so that none waits for the one before; the compiler makes vectors of them.
uint64_t Sum(const std::vector<uint64_t>& words) {
  std::array<uint64_t, 16> sums{};
  for (size_t i = 0; i + sums.size() <= words.size(); i += sums.size()) {
    for (size_t lane = 0; lane < sums.size(); ++lane) {
      sums[lane] += words[i + lane];
    }
  }
  return std::accumulate(sums.begin(), sums.end(), uint64_t{0});
}

}  // namespace

MemoryRead::MemoryRead(uint64_t bytes, int threads) : threads_(threads), parts_(static_cast<size_t>(threads)) {
  const size_t words = bytes / sizeof(uint64_t) / static_cast<size_t>(threads);
  threads_.Run([&](int thread) { parts_[static_cast<size_t>(thread)].assign(words, 1); });
}

double MemoryRead::BytesPerSecond() {
  std::vector<uint64_t> sums(parts_.size());
  const auto begin = std::chrono::steady_clock::now();
  threads_.Run([&](int thread) { sums[static_cast<size_t>(thread)] = Sum(parts_[static_cast<size_t>(thread)]); });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  sum_ = std::accumulate(sums.begin(), sums.end(), uint64_t{0});
  return static_cast<double>(parts_.size() * parts_[0].size() * sizeof(uint64_t)) / seconds.count();
}

}  // namespace flexquant::cli
