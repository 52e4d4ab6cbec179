#ifndef FLEXQUANT_TESTS_KERNELS_BENCH_MEASURE_H_
#define FLEXQUANT_TESTS_KERNELS_BENCH_MEASURE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "common/nested_matrix.h"
#include "common/thread_pool.h"

namespace flexquant::bench {

// Of repeated runs, in seconds.
struct Timing {
  double median = 0;
  double p10 = 0;
  double p90 = 0;
};

// kThread: processor time of the calling thread, which other programs hardly disturb; for work of one thread.
enum class Clock { kWall, kThread };

// Runs body until `seconds` have passed and at least 7 times, after one run that does not count.
Timing Measure(double seconds, absl::FunctionRef<void()> body, Clock clock = Clock::kWall);

// "AMD EPYC, 2 CPUs, L3 32 MiB".
std::string MachineName();

// Zeroed memory of its own pages, large ones where the system gives them.
class Pages {
 public:
  explicit Pages(size_t bytes);
  ~Pages();
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  uint8_t* data() { return data_; }
  size_t size() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

// Copies of one matrix's shape with pseudo-random planes, enough of them to fill `total_bytes` at 8 bits.
class MatrixSet {
 public:
  MatrixSet(int64_t rows, int64_t cols, int64_t group_size, size_t total_bytes);
  const std::vector<NestedMatrix>& matrices() const { return matrices_; }

 private:
  std::unique_ptr<Pages> pages_;
  std::vector<NestedMatrix> matrices_;
};

// Bytes a second of a plain read of `pages` by all threads of the pool.
double ReadBandwidth(Pages& pages, ThreadPool& pool, double seconds);

// Sum of the words of `data`, read in four streams of 64-byte loads; only with AVX-512 VNNI. `bytes` % 256 == 0.
uint64_t SumWide(const uint8_t* data, size_t bytes);

// Multiply-adds a second of register-only vpdpbusd in one thread; 0 without AVX-512 VNNI.
double VnniPeak(double seconds);

}  // namespace flexquant::bench

#endif  // FLEXQUANT_TESTS_KERNELS_BENCH_MEASURE_H_
