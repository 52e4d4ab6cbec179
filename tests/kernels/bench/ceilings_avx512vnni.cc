#include "kernels/kernels.h"
#include "tests/kernels/bench/measure.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

namespace flexquant::bench {

#if defined(__AVX512VNNI__)

namespace {

constexpr int kChains = 16;
constexpr int kRounds = 100000;

int32_t Chains() {
  __m512i sums[kChains];
  for (auto& sum : sums) {
    sum = _mm512_setzero_si512();
  }
  __m512i a = _mm512_set1_epi32(0x01020304);
  const __m512i b = _mm512_set1_epi32(0x05060708);
  for (int i = 0; i < kRounds; ++i) {
    asm volatile("" : "+v"(a));  // keeps the compiler from hoisting the products
    for (auto& sum : sums) {
      sum = _mm512_dpbusd_epi32(sum, a, b);
    }
  }
  __m512i total = sums[0];
  for (int i = 1; i < kChains; ++i) {
    total = _mm512_add_epi32(total, sums[i]);
  }
  return _mm512_cvtsi512_si32(total);
}

}  // namespace

uint64_t SumWide(const uint8_t* data, size_t bytes) {
  constexpr size_t kStreams = 4;
  const size_t part = bytes / kStreams;
  __m512i sums[kStreams];
  for (auto& sum : sums) {
    sum = _mm512_setzero_si512();
  }
  for (size_t i = 0; i < part; i += 64) {
    for (size_t stream = 0; stream < kStreams; ++stream) {
      const uint8_t* line = data + stream * part + i;
      __builtin_prefetch(line + 2048, 0, 2);
      sums[stream] = _mm512_add_epi64(sums[stream], _mm512_loadu_si512(line));
    }
  }
  const __m512i total = _mm512_add_epi64(_mm512_add_epi64(sums[0], sums[1]), _mm512_add_epi64(sums[2], sums[3]));
  uint64_t words[8];
  _mm512_storeu_si512(words, total);
  uint64_t sum = 0;
  for (const uint64_t word : words) {
    sum += word;
  }
  return sum;
}

double VnniPeak(double seconds) {
  if (!IsaSupported(Isa::kAvx512Vnni)) {
    return 0;
  }
  volatile int32_t sink = 0;
  const Timing timing = Measure(seconds, [&sink] { sink = Chains(); });
  return 64.0 * kChains * kRounds / timing.median;
}

#else

uint64_t SumWide(const uint8_t* /*data*/, size_t /*bytes*/) { return 0; }

double VnniPeak(double /*seconds*/) { return 0; }

#endif

}  // namespace flexquant::bench
