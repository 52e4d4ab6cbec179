#ifndef FLEXQUANT_KERNELS_CUDA_SAMPLING_SELECT_CUH_
#define FLEXQUANT_KERNELS_CUDA_SAMPLING_SELECT_CUH_

// Which tokens of a row are kept, and which of them is drawn. Tokens are ordered by logit, most likely first, ties by
// smaller id.

#include "kernels/cuda/sampling_cluster.cuh"
#include "kernels/cuda/sampling_order.cuh"

namespace flexquant::cuda::sampling {

// Keeps the order of floats; 0 and -0 are equal.
__device__ inline uint32_t KeyOf(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

__device__ inline float LogitOf(uint32_t key) {
  return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7FFFFFFFU : ~key);
}

// e^x by the very operations of kernels/cpu/exp.h on the portable vector: no fused multiply-add.
__device__ inline float PortableExp(float x) {
  const auto fma = [](float a, float b, float c) { return __fadd_rn(__fmul_rn(a, b), c); };
  if (!(x >= -87.0F)) {
    return 0.0F;
  }
  const float clamped = fminf(x, 88.0F);
  const float n = __fsub_rn(fma(clamped, 1.44269504F, 12582912.0F), 12582912.0F);
  const float r = fma(n, 2.12194440e-4F, fma(n, -0.693359375F, clamped));
  float p = 1.0F / 5040;
  p = fma(p, r, 1.0F / 720);
  p = fma(p, r, 1.0F / 120);
  p = fma(p, r, 1.0F / 24);
  p = fma(p, r, 1.0F / 6);
  p = fma(p, r, 0.5F);
  p = fma(p, r, 1.0F);
  p = fma(p, r, 1.0F);
  return __fmul_rn(p, __uint_as_float(static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23));
}

// Largest logits of a row (a tie counts twice) and its smallest.
struct Extremes {
  float max;
  float second;
  float min;
  uint32_t argmax;
  uint32_t bad;  // not 0: some logit is not finite
};

__device__ inline Extremes Merge(const Extremes& a, const Extremes& b) {
  const bool first = a.max > b.max || (a.max == b.max && a.argmax < b.argmax);
  return {first ? a.max : b.max, fmaxf(first ? b.max : a.max, fmaxf(a.second, b.second)), fminf(a.min, b.min),
          first ? a.argmax : b.argmax, a.bad | b.bad};
}

// Tokens kept: those before the boundary, and it.
struct Kept {
  uint32_t key = 0;
  uint32_t id = ~0U;
  __device__ bool Has(uint32_t k, uint32_t i) const { return k > key || (k == key && i <= id); }
};

// Weight of a token: e^((logit - max) / temperature).
struct Weigher {
  float max;
  float temperature;
  __device__ float operator()(float logit) const { return PortableExp(__fdiv_rn(__fsub_rn(logit, max), temperature)); }
};

// A weight, at most 1, in units of 2^-44: sums of 2^18 are exact, so in any order.
__device__ inline Mass ToMass(float weight) { return __float2ull_rz(weight * 0x1p44F); }

// The first bin (bin 0 holds the most likely) at which the sum over bins reaches `need`; `need` becomes what that bin
// has to contribute, `bin_mass` its content. A need of 0 stands for `fraction` of all bins, at least 1.
// Called with this block's bins filled.
__device__ inline uint32_t FindBin(Cluster& c, Mass& need, double fraction, Mass& bin_mass) {
  Shared& s = *c.shared;
  const uint32_t* low = &s.low_bins[c.phase % 2][threadIdx.x];
  const uint32_t* high = &s.high_bins[c.phase % 2][threadIdx.x];
  ClusterSync();
  Mass mine = 0;
#pragma unroll
  for (int rank = 0; rank < kMaxBlocks; ++rank) {
    mine += rank < c.size ? (Mass{*Remote(high, rank)} << 32) + *Remote(low, rank) : 0;
  }
  const Mass sum = BlockScan(c, mine);
  if (threadIdx.x == kThreads - 1) {
    s.found[0] = kBins;
    s.total = sum;
  }
  __syncthreads();
  if (need == 0) {
    const auto part = static_cast<Mass>(ceil(fraction * static_cast<double>(s.total)));
    need = ::max(Mass{1}, ::min(part, s.total));
  }
  if (sum >= need && sum - mine < need) {
    s.found[0] = threadIdx.x;
    s.warp_masses[0] = sum - mine;
    s.warp_masses[1] = mine;
  }
  __syncthreads();
  ++c.phase;
  const uint32_t bin = s.found[0];
  need -= bin < kBins ? s.warp_masses[0] : 0;
  bin_mass = s.warp_masses[1];
  return bin;
}

// Bins in 32-bit halves: shared memory adds those at once, but 64 bits only by compare and swap.
struct Bins {
  uint32_t* low;
  uint32_t* high;
  __device__ void Add(uint32_t bin, Mass mass) const {
    const auto part = static_cast<uint32_t>(mass);
    const uint32_t before = atomicAdd(&low[bin], part);
    const uint32_t rest = static_cast<uint32_t>(mass >> 32) + (before + part < part ? 1 : 0);
    if (rest != 0) {
      atomicAdd(&high[bin], rest);
    }
  }
};

__device__ inline Bins ClearBins(Cluster& c) {
  const Bins bins = {c.shared->low_bins[c.phase % 2], c.shared->high_bins[c.phase % 2]};
  bins.low[threadIdx.x] = 0;
  bins.high[threadIdx.x] = 0;
  __syncthreads();
  return bins;
}

// Even bins of logits below `max`, for the first step: logits crowd in few of the bins of their keys.
struct EvenBins {
  float max;
  float scale;
  __device__ uint32_t operator()(float logit) const {
    return static_cast<uint32_t>(fminf((max - logit) * scale, static_cast<float>(kBins - 1)));
  }
};

// The least key whose bin is at most `limit`, by one warp.
__device__ inline uint32_t LeastKey(const EvenBins& even, uint32_t limit) {
  uint32_t begin = KeyOf(-3.4028235e38F);
  uint32_t end = KeyOf(even.max);  // always such a key
  while (begin < end) {
    const uint32_t step = (end - begin) / 32 + 1;
    const uint32_t key = end - begin > threadIdx.x % 32 * step ? begin + threadIdx.x % 32 * step : end;
    // Lanes from the first success on succeed.
    const unsigned hits = __ballot_sync(~0U, even(LogitOf(key)) <= limit);
    const unsigned first = hits == 0 ? 32 : static_cast<unsigned>(__ffs(static_cast<int>(hits)) - 1);
    const uint32_t origin = begin;
    end = hits == 0 || end - origin <= first * step ? end : origin + first * step;
    begin = first == 0 ? end : origin + (first - 1) * step + 1;
    begin = begin < end ? begin : end;
  }
  return begin;
}

// Keys of bin `bin`: [low, high]. Bins fall as keys rise.
__device__ inline void KeyRange(Cluster& c, const EvenBins& even, uint32_t bin, uint32_t& low, uint32_t& high) {
  Shared& s = *c.shared;
  const unsigned warp = threadIdx.x / 32;
  if (warp < 2) {
    const bool all = warp == 1 && bin == 0;  // no bins before this one
    const uint32_t key = all ? KeyOf(even.max) + 1 : LeastKey(even, bin - warp);
    if (threadIdx.x % 32 == 0) {
      s.found[1 + warp] = key;
    }
  }
  __syncthreads();
  low = s.found[1];
  high = s.found[2] - 1;
}

// The smallest set of most likely tokens whose measure(logit, id), a Mass that is 0 for tokens that do not count and
// else depends on the logit alone, sums to `need` or more, or to `fraction` of all if need is 0.
template <class Measure>
__device__ Kept Select(Cluster& c, const Slice& slice, float max, float span, Mass need, double fraction,
                       Measure measure) {
  const EvenBins even = {max, span > 1e-30F ? static_cast<float>(kBins) / span : 0.0F};
  Bins bins = ClearBins(c);
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < slice.count; i += kThreads) {
    const float x = slice.x[i];
    const Mass mass = measure(x, static_cast<uint32_t>(slice.begin + i));
    if (mass > 0) {
      bins.Add(even(x), mass);
    }
  }
  Mass bin_mass = 0;
  const uint32_t bin = FindBin(c, need, fraction, bin_mass);
  uint32_t low = 0;
  uint32_t high = 0;
  KeyRange(c, even, bin, low, high);
  // Once all of a bin is needed, its least key is the boundary.
  while (low < high && need < bin_mass) {
    const int shift = ::max(0, 32 - __clz(static_cast<int>(high - low)) - 9);
    bins = ClearBins(c);
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < slice.count; i += kThreads) {
      const float x = slice.x[i];
      const uint32_t key = KeyOf(x);
      if (key >= low && key <= high) {
        const Mass mass = measure(x, static_cast<uint32_t>(slice.begin + i));
        if (mass > 0) {
          bins.Add((high - key) >> shift, mass);
        }
      }
    }
    const uint32_t at = FindBin(c, need, fraction, bin_mass) << shift;
    high -= at;
    const uint32_t width = (1U << shift) - 1;
    low = high - low > width ? high - width : low;
  }
  Kept kept;
  kept.key = low;
  if (need >= bin_mass) {
    return kept;
  }
  const float logit = LogitOf(low);
  Mass each = measure(logit, 0U);
  each = each > 0 ? each : 1;
  const Mass ties = bin_mass / each;
  const Mass wanted = (need + each - 1) / each;
  if (wanted < ties) {
    const auto counts = [&](float x, uint32_t id) { return KeyOf(x) == low && measure(x, id) > 0 ? 1.0 : 0.0; };
    kept.id = FindInOrder<false>(c, slice, counts, static_cast<double>(wanted) - 0.5, 0.0);
  }
  return kept;
}

}  // namespace flexquant::cuda::sampling

#endif  // FLEXQUANT_KERNELS_CUDA_SAMPLING_SELECT_CUH_
