#ifndef FLEXQUANT_EXECUTOR_FETCH_AHEAD_H_
#define FLEXQUANT_EXECUTOR_FETCH_AHEAD_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "common/nested_matrix.h"

namespace flexquant::executor {

// Tiles of a product that a thread takes at a time: few enough to even out the threads, even so that kernels may take
// tiles in pairs.
int64_t ProductChunk(const NestedMatrix& w, int num_threads);

// Fetches [from, from + bytes) into the L2 of the thread that calls, to be read or to be written.
void FetchLines(const void* from, int64_t bytes);
void FetchLinesToWrite(const void* from, int64_t bytes);

// What the threads of a pool are about to read, each its share, which they fetch into their L2 while they wait for each
// other: a step of few tokens waits for memory, which would idle meanwhile. One thread at a time says what is expected;
// FetchFirst and FetchMore may be called by any at any time, and may then still fetch what was expected before, so
// whatever ever was must be there as long as threads call them.
class FetchAhead {
 public:
  explicit FetchAhead(int num_threads);

  void ExpectNothing();
  // The planes of a product at `bits`; of the reference, nothing.
  void ExpectProduct(const NestedMatrix& w, int bits);
  // The threads' ranges at `base`.
  void ExpectRanges(const uint8_t* base);

  // Each thread has at most kRanges, all of the same size; AddRange returns false and leaves out what is more.
  static constexpr int64_t kRanges = 64;
  void ClearRanges(int64_t bytes);
  bool AddRange(int thread, int64_t offset);

  // The beginning of a thread's share, for a thread that is done with what is before it.
  void FetchFirst(int thread) const;
  // Pieces 0, 1, ... of what follows, for a thread that waits; false if there is nothing (more) that should be fetched.
  bool FetchMore(int thread, int64_t piece) const;

 private:
  struct alignas(64) Ranges {
    std::atomic<int64_t> count{0};
    std::atomic<int64_t> offsets[kRanges] = {};
  };

  // Of what is expected, either. Units [begin, begin + count) of the thread's share of the product, or ranges of the
  // thread's; false if there is none of them.
  struct Piece {
    int64_t begin = 0;
    int64_t count = 0;
  };
  bool Fetch(int thread, Piece units, Piece ranges) const;
  bool FetchUnits(const NestedMatrix& w, int thread, int64_t begin, int64_t count) const;
  bool FetchRanges(const uint8_t* base, int thread, int64_t begin, int64_t count) const;

  const int num_threads_;
  // Read in no order: any mixture of what was expected is harmless.
  std::atomic<const NestedMatrix*> matrix_{nullptr};
  std::atomic<int> bits_{0};
  std::atomic<const uint8_t*> base_{nullptr};
  std::atomic<int64_t> range_bytes_{0};
  std::vector<Ranges> ranges_;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_FETCH_AHEAD_H_
