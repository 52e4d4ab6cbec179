#ifndef FLEXQUANT_KERNELS_CUDA_SAMPLING_DRAW_CUH_
#define FLEXQUANT_KERNELS_CUDA_SAMPLING_DRAW_CUH_

// Penalties and the draw of one row.

#include "kernels/cuda/sampling.h"
#include "kernels/cuda/sampling_select.cuh"

namespace flexquant::cuda::sampling {

__device__ inline bool HasPenalties(const RowSampling& r) {
  return r.repetition_penalty != 1 || r.presence_penalty != 0 || r.frequency_penalty != 0;
}

__device__ inline void ApplyPenalties(const RowSampling& r, const uint32_t* counts, const Slice& slice) {
  for (int i = static_cast<int>(threadIdx.x); i < slice.count; i += kThreads) {
    const uint32_t seen = counts[slice.begin + i];
    if (seen == 0) {
      continue;
    }
    float x = slice.x[i];
    x = x > 0 ? __fdiv_rn(x, r.repetition_penalty) : __fmul_rn(x, r.repetition_penalty);
    if (seen > 1) {
      const float frequency = __fmul_rn(r.frequency_penalty, static_cast<float>(seen - 1));
      x = __fsub_rn(x, __fadd_rn(r.presence_penalty, frequency));
    }
    slice.x[i] = x;
  }
  __syncthreads();
}

// Philox4x32-10 as in kernels/philox.cc.
__device__ inline double PhiloxUniform(uint64_t seed, uint64_t draw) {
  uint32_t x[4] = {static_cast<uint32_t>(draw), static_cast<uint32_t>(draw >> 32), 0, 0};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * x[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * x[2];
    x[0] = static_cast<uint32_t>(product1 >> 32) ^ x[1] ^ key[0];
    x[2] = static_cast<uint32_t>(product0 >> 32) ^ x[3] ^ key[1];
    x[1] = static_cast<uint32_t>(product1);
    x[3] = static_cast<uint32_t>(product0);
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  const uint64_t word = (uint64_t{x[1]} << 32) | x[0];
  return static_cast<double>(word >> 11) * 0x1p-53;
}

__device__ inline uint32_t Draw(Cluster& c, const Slice& slice, const RowSampling& r, const Extremes& e, int vocab) {
  const Weigher weigh = {e.max, r.temperature};
  Kept kept;
  if (r.top_k > 0 && r.top_k < static_cast<uint32_t>(vocab)) {
    const auto one = [](float, uint32_t) { return Mass{1}; };
    kept = Select(c, slice, e.max, e.max - e.min, static_cast<Mass>(r.top_k), 0.0, one);
  }
  if (r.top_p < 1) {
    const Kept among = kept;
    const auto mass = [=](float x, uint32_t id) { return among.Has(KeyOf(x), id) ? ToMass(weigh(x)) : Mass{0}; };
    // Past 31 temperatures below the maximum a weight is less than a unit of mass.
    const float span = fminf(e.max - e.min, 31.0F * r.temperature);
    kept = Select(c, slice, e.max, span, 0, static_cast<double>(r.top_p), mass);
    // The boundary found may lie below the first one, with nothing between.
    if (kept.key < among.key || (kept.key == among.key && kept.id > among.id)) {
      kept = among;
    }
  }
  const auto weight = [=](float x, uint32_t id) {
    const float w = kept.Has(KeyOf(x), id) ? weigh(x) : 0.0F;
    return r.min_p > 0 && w < r.min_p ? 0.0 : static_cast<double>(w);
  };
  return FindInOrder<true>(c, slice, weight, 0.0, PhiloxUniform(r.seed, r.draw));
}

}  // namespace flexquant::cuda::sampling

#endif  // FLEXQUANT_KERNELS_CUDA_SAMPLING_DRAW_CUH_
