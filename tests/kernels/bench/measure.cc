#include "tests/kernels/bench/measure.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <ctime>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/check.h"
#include "kernels/kernels.h"

namespace flexquant::bench {
namespace {

double Now(Clock clock) {
  timespec time;
  FQ_CHECK(clock_gettime(clock == Clock::kWall ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &time) == 0);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

uint64_t Round64(uint64_t bytes) { return (bytes + 63) / 64 * 64; }

void FillPseudoRandom(uint8_t* data, size_t bytes) {
  uint64_t state = 0x9E3779B97F4A7C15;
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    state = state * 6364136223846793005 + 1442695040888963407;
    const uint64_t word = state ^ (state >> 29);
    std::memcpy(data + i, &word, sizeof(word));
  }
}

uint64_t SumNarrow(const uint8_t* data, size_t bytes) {
  constexpr size_t kLanes = 8;
  uint64_t lanes[kLanes] = {};
  for (size_t i = 0; i + 8 * kLanes <= bytes; i += 8 * kLanes) {
    uint64_t words[kLanes];
    std::memcpy(words, data + i, sizeof(words));
    for (size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += words[lane];
    }
  }
  uint64_t sum = 0;
  for (const uint64_t lane : lanes) {
    sum += lane;
  }
  return sum;
}

}  // namespace

Timing Measure(double seconds, absl::FunctionRef<void()> body, Clock clock) {
  body();
  std::vector<double> times;
  const double start = Now(Clock::kWall);
  while (times.size() < 7 || Now(Clock::kWall) - start < seconds) {
    const double begin = Now(clock);
    body();
    times.push_back(Now(clock) - begin);
  }
  std::sort(times.begin(), times.end());
  const auto at = [&times](double fraction) {
    return times[static_cast<size_t>(fraction * static_cast<double>(times.size() - 1) + 0.5)];
  };
  return {at(0.5), at(0.1), at(0.9)};
}

std::string MachineName() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  std::string model = "unknown CPU";
  while (std::getline(file, line)) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (parts.size() == 2 && absl::StartsWith(parts[0], "model name")) {
      model = std::string(absl::StripAsciiWhitespace(parts[1]));
    }
  }
  return absl::StrCat(model, ", ", sysconf(_SC_NPROCESSORS_ONLN), " CPUs, L3 ",
                      sysconf(_SC_LEVEL3_CACHE_SIZE) / (1 << 20), " MiB");
}

Pages::Pages(size_t bytes) : bytes_(bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  FQ_CHECK(memory != MAP_FAILED);
  madvise(memory, bytes, MADV_HUGEPAGE);
  data_ = static_cast<uint8_t*>(memory);
}

Pages::~Pages() { munmap(data_, bytes_); }

MatrixSet::MatrixSet(int64_t rows, int64_t cols, int64_t group_size, size_t total_bytes) {
  NestedMatrix shape;
  shape.rows = rows;
  shape.cols = cols;
  shape.group_size = group_size;
  const auto plane = static_cast<size_t>(shape.tiles() * shape.units() * kPlaneWordBytes);
  const auto scales = static_cast<size_t>(shape.tiles() * shape.groups() * 64);
  const size_t each = 8 * plane + Round64(scales);
  const size_t copies = std::max<size_t>(1, (total_bytes + each - 1) / each);
  // Kernels fetch a page ahead of what they read.
  pages_ = std::make_unique<Pages>(copies * each + 8192);
  uint8_t* at = pages_->data();
  for (size_t copy = 0; copy < copies; ++copy) {
    NestedMatrix w = shape;
    FillPseudoRandom(at, 8 * plane);
    w.base3 = at;
    w.bit4 = at + 3 * plane;
    w.bit5 = at + 4 * plane;
    w.bit6 = at + 5 * plane;
    w.bits78 = at + 6 * plane;
    auto* halves = reinterpret_cast<uint16_t*>(at + 8 * plane);
    for (size_t i = 0; i < scales / 2; ++i) {
      halves[i] = i / kTileRows % 2 == 0 ? 0x2000 : 0x5800;  // 2^-7 and 128
    }
    w.scales = halves;
    matrices_.push_back(w);
    at += each;
  }
}

double ReadBandwidth(Pages& pages, ThreadPool& pool, double seconds) {
  std::atomic<uint64_t> sink{0};
  constexpr int64_t kChunk = int64_t{1} << 18;
  const bool wide = IsaSupported(Isa::kAvx512Vnni);
  const auto chunks = static_cast<int64_t>(pages.size() - 8192) / kChunk;
  const auto pass = [&] {
    pool.ParallelFor(chunks, [&](int64_t begin, int64_t end, int /*thread*/) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        const uint8_t* data = pages.data() + chunk * kChunk;
        sink += wide ? SumWide(data, kChunk) : SumNarrow(data, kChunk);
      }
    });
  };
  const Timing timing = Measure(seconds, pass, pool.num_threads() == 1 ? Clock::kThread : Clock::kWall);
  return static_cast<double>(chunks * kChunk) / timing.median;
}

}  // namespace flexquant::bench
