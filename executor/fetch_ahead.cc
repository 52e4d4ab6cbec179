#include "executor/fetch_ahead.h"

#include <algorithm>
#include <tuple>

#include "common/precision.h"
#include "common/thread_pool.h"

namespace flexquant::executor {
namespace {

constexpr int64_t kLineBytes = 64;
// Units of a share that its thread fetches in any case, 8.5 KiB at 8 bits; units in a piece, since others may wait for
// it to end; and the last unit, so that the smallest L2 (512 KiB) has room for them.
constexpr int64_t kFirstUnits = 16;
constexpr int64_t kPieceUnits = 4;
constexpr int64_t kMostUnits = 512;
// The same of ranges. In any case the keys and values that attention meets before its own fetches begin.
constexpr int64_t kFirstRanges = 16;
constexpr int64_t kPieceRanges = 2;
constexpr int64_t kMostRangeBytes = 4096;

}  // namespace

int64_t ProductChunk(const NestedMatrix& w, int num_threads) {
  return std::max<int64_t>(2, w.tiles() / (8 * num_threads) / 2 * 2);
}

void FetchLines(const void* from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += kLineBytes) {
    __builtin_prefetch(static_cast<const uint8_t*>(from) + at, /*rw=*/0, /*locality=*/2);
  }
}

void FetchLinesToWrite(const void* from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += kLineBytes) {
    __builtin_prefetch(static_cast<const uint8_t*>(from) + at, /*rw=*/1, /*locality=*/2);
  }
}

FetchAhead::FetchAhead(int num_threads) : num_threads_(num_threads), ranges_(static_cast<size_t>(num_threads)) {}

void FetchAhead::ExpectNothing() {
  matrix_.store(nullptr, std::memory_order_relaxed);
  base_.store(nullptr, std::memory_order_relaxed);
}

void FetchAhead::ExpectProduct(const NestedMatrix& w, int bits) {
  base_.store(nullptr, std::memory_order_relaxed);
  bits_.store(bits, std::memory_order_relaxed);
  matrix_.store(bits <= kTopPrecision ? &w : nullptr, std::memory_order_relaxed);
}

void FetchAhead::ExpectRanges(const uint8_t* base) {
  matrix_.store(nullptr, std::memory_order_relaxed);
  base_.store(base, std::memory_order_relaxed);
}

void FetchAhead::ClearRanges(int64_t bytes) {
  range_bytes_.store(std::min(bytes, kMostRangeBytes), std::memory_order_relaxed);
  for (Ranges& ranges : ranges_) {
    ranges.count.store(0, std::memory_order_relaxed);
  }
}

bool FetchAhead::AddRange(int thread, int64_t offset) {
  Ranges& ranges = ranges_[static_cast<size_t>(thread)];
  const int64_t count = ranges.count.load(std::memory_order_relaxed);
  if (count == kRanges) {
    return false;
  }
  ranges.offsets[count].store(offset, std::memory_order_relaxed);
  ranges.count.store(count + 1, std::memory_order_relaxed);
  return true;
}

void FetchAhead::FetchFirst(int thread) const { Fetch(thread, {0, kFirstUnits}, {0, kFirstRanges}); }

bool FetchAhead::FetchMore(int thread, int64_t piece) const {
  return Fetch(thread, {kFirstUnits + piece * kPieceUnits, kPieceUnits},
               {kFirstRanges + piece * kPieceRanges, kPieceRanges});
}

bool FetchAhead::Fetch(int thread, Piece units, Piece ranges) const {
  const NestedMatrix* const matrix = matrix_.load(std::memory_order_relaxed);
  const uint8_t* const base = base_.load(std::memory_order_relaxed);
  if (matrix != nullptr) {
    return units.begin < kMostUnits && FetchUnits(*matrix, thread, units.begin, units.count);
  }
  return base != nullptr && FetchRanges(base, thread, ranges.begin, ranges.count);
}

bool FetchAhead::FetchUnits(const NestedMatrix& w, int thread, int64_t begin, int64_t count) const {
  const int64_t chunk = ProductChunk(w, num_threads_);
  const int64_t share = ThreadPool::ShareBegin(w.tiles(), chunk, thread, num_threads_) * w.units();
  const int64_t share_end = ThreadPool::ShareBegin(w.tiles(), chunk, thread + 1, num_threads_) * w.units();
  const int64_t first = share + begin;
  const int64_t units = std::min(count, share_end - first);
  if (units <= 0) {
    return false;
  }
  const int wanted = bits_.load(std::memory_order_relaxed);
  // {plane, its words a unit, the least width that reads it}
  const std::tuple<const uint8_t*, int64_t, int> planes[] = {
      {w.base3, 3, 3}, {w.bit4, 1, 4}, {w.bit5, 1, 5}, {w.bit6, 1, 6}, {w.bits78, 2, 8}};
  for (const auto& [plane, words, bits] : planes) {
    if (bits <= wanted) {
      FetchLines(plane + first * words * kPlaneWordBytes, units * words * kPlaneWordBytes);
    }
  }
  return true;
}

bool FetchAhead::FetchRanges(const uint8_t* base, int thread, int64_t begin, int64_t count) const {
  const Ranges& ranges = ranges_[static_cast<size_t>(thread)];
  const int64_t end = std::min(begin + count, ranges.count.load(std::memory_order_relaxed));
  for (int64_t range = begin; range < end; ++range) {
    FetchLines(base + ranges.offsets[range].load(std::memory_order_relaxed),
               range_bytes_.load(std::memory_order_relaxed));
  }
  return begin < end;
}

}  // namespace flexquant::executor
