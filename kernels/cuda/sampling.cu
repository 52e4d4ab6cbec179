#include "kernels/cuda/ops_common.cuh"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/sampling_draw.cuh"

namespace flexquant::cuda {
namespace {

using namespace sampling;  // NOLINT: its names are this file's own

struct Sums {
  double sum;       // of e^d, d = logit - max
  double weighted;  // of e^d * d
};

__device__ Extremes FindExtremes(Cluster& c, const Slice& slice) {
  Extremes e = {-INFINITY, -INFINITY, INFINITY, ~0U, 0};
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < slice.count; i += kThreads) {
    const float x = slice.x[i];
    e.bad |= isfinite(x) ? 0U : 1U;
    e.min = fminf(e.min, x);
    if (x > e.max) {
      e.second = e.max;
      e.max = x;
      e.argmax = static_cast<uint32_t>(slice.begin + i);
    } else {
      e.second = fmaxf(e.second, x);
    }
  }
  return ReduceCluster(c, e, [](const Extremes& a, const Extremes& b) { return Merge(a, b); });
}

// Fast exponentials are good to 2^-22 or so a term. The largest logit's term, 1, comes last, so that a sum just above 1
// keeps what it is above 1 by.
__device__ Sums FindSums(Cluster& c, const Slice& slice, const Extremes& extremes) {
  float sum = 0;
  float weighted = 0;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < slice.count; i += kThreads) {
    const float d = slice.x[i] - extremes.max;
    const float e = static_cast<uint32_t>(slice.begin + i) == extremes.argmax ? 0.0F : __expf(d);
    sum += e;
    weighted += e * d;
  }
  Sums sums = {static_cast<double>(sum), static_cast<double>(weighted)};
  sums = ReduceCluster(c, sums, [](const Sums& a, const Sums& b) {
    return Sums{a.sum + b.sum, a.weighted + b.weighted};
  });
  sums.sum += 1.0;
  return sums;
}

// The logits of this block's slice to its own memory.
__device__ void LoadSlice(const float* logits, const Slice& slice) {
  const float* from = logits + slice.begin;
  int done = 0;
  if (reinterpret_cast<uintptr_t>(from) % 16 == 0) {
    const int words = slice.count / 4;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < words; i += kThreads) {
      reinterpret_cast<float4*>(slice.x)[i] = reinterpret_cast<const float4*>(from)[i];
    }
    done = 4 * words;
  }
  for (int i = done + static_cast<int>(threadIdx.x); i < slice.count; i += kThreads) {
    slice.x[i] = from[i];
  }
  __syncthreads();
}

// The `count` most likely tokens to the result, in order; by the first block.
__device__ void WriteTop(Cluster& c, const Slice& slice, const Extremes& e, float log_sum_exp, int count,
                         RowSample* result) {
  const auto one = [](float, uint32_t) { return Mass{1}; };
  const Kept kept = Select(c, slice, e.max, e.max - e.min, static_cast<Mass>(count), 0.0, one);
  Shared& s = *c.shared;
  if (threadIdx.x == 0) {
    s.top_count = 0;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < slice.count; i += kThreads) {
    const float x = slice.x[i];
    const auto id = static_cast<uint32_t>(slice.begin + i);
    if (kept.Has(KeyOf(x), id)) {
      const uint32_t at = atomicAdd(&s.top_count, 1U);
      s.top_ids[at] = id;
      s.top_logits[at] = x;
    }
  }
  ClusterSync();
  if (c.rank == 0 && threadIdx.x < 32) {
    // Lane i takes the i-th token found and counts those before it.
    float logit = 0;
    uint32_t id = ~0U;
    int first = 0;
    for (int rank = 0; rank < c.size; ++rank) {
      const int found = static_cast<int>(*Remote(&s.top_count, rank));
      const int at = static_cast<int>(threadIdx.x) - first;
      if (at >= 0 && at < found) {
        logit = *Remote(&s.top_logits[at], rank);
        id = *Remote(&s.top_ids[at], rank);
      }
      first += found;
    }
    int before = 0;
    for (int i = 0; i < count; ++i) {
      const float other = __shfl_sync(~0U, logit, i);
      const uint32_t other_id = __shfl_sync(~0U, id, i);
      before += other > logit || (other == logit && other_id < id) ? 1 : 0;
    }
    if (static_cast<int>(threadIdx.x) < count) {
      result->top[before] = {id, logit - log_sum_exp};
    }
  }
  ClusterSync();
}

// One thread writes all but the top list.
__device__ void WriteResult(const SamplingParams& p, int row, const RowSampling& r, const Extremes& e, const Sums& sums,
                            uint32_t token, float log_sum_exp) {
  const float* logits = p.logits + row * p.stride;
  RowSample& out = p.results[row];
  const double entropy = log1p(sums.sum - 1.0) - sums.weighted / sums.sum;
  out.token = token;
  out.flags = e.bad != 0 ? kSampleNotFinite : 0;
  out.logprob = e.bad != 0 ? 0.0F : logits[token] - log_sum_exp;
  const bool scored = e.bad == 0 && r.score_target >= 0 && r.score_target < p.vocab;
  out.score = scored ? logits[r.score_target] - log_sum_exp : 0.0F;
  out.max_logit = e.max;
  out.log_sum_exp = log_sum_exp;
  out.entropy_nats = static_cast<float>(fmax(entropy, 0.0));
  out.top1_probability = static_cast<float>(1.0 / sums.sum);
  out.margin = p.vocab > 1 ? e.max - e.second : 0.0F;
  out.argmax = e.argmax;
  out.num_top = e.bad != 0 ? 0 : min(min(r.top_logprobs, kMaxTopLogprobs), p.vocab);
  out.reserved = 0;
  if (p.next_tokens != nullptr) {
    p.next_tokens[row] = token;
  }
  if (r.count_sampled != 0 && r.count_slot >= 0 && p.token_counts != nullptr && e.bad == 0) {
    uint32_t* count = p.token_counts + static_cast<int64_t>(r.count_slot) * p.vocab + token;
    *count = *count == 0 ? 2 : *count + 1;
  }
}

__global__ void __launch_bounds__(kThreads) SamplingKernel(const SamplingParams p) {
  extern __shared__ __align__(16) float memory[];
  __shared__ Shared shared;
  LaunchDependents();
  WaitForPreviousGrid();
  const auto row = static_cast<int>(blockIdx.y);
  if (row >= NumRows(p.num_rows, p.max_rows)) {
    return;
  }
  Cluster c = {&shared, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x)};
  const int share = (p.vocab + 4 * c.size - 1) / (4 * c.size) * 4;
  Slice slice;
  slice.begin = min(p.vocab, c.rank * share);
  slice.count = min(share, p.vocab - slice.begin);
  slice.x = p.workspace == nullptr
                ? memory
                : static_cast<float*>(p.workspace) + static_cast<int64_t>(row) * 4 * ((p.vocab + 3) / 4);
  const RowSampling r = p.settings[row];
  LoadSlice(p.logits + row * p.stride, slice);
  const Extremes e = FindExtremes(c, slice);
  Sums sums = {1, 0};
  uint32_t token = 0;
  float log_sum_exp = 0;
  if (e.bad == 0) {
    sums = FindSums(c, slice, e);
    log_sum_exp = static_cast<float>(static_cast<double>(e.max) + log(sums.sum));
    const int top = min(min(static_cast<int>(r.top_logprobs), kMaxTopLogprobs), p.vocab);
    if (top > 0) {
      WriteTop(c, slice, e, log_sum_exp, top, &p.results[row]);
    }
    Extremes modified = e;
    if (r.sample != 0 && r.count_slot >= 0 && p.token_counts != nullptr && HasPenalties(r)) {
      ApplyPenalties(r, p.token_counts + static_cast<int64_t>(r.count_slot) * p.vocab, slice);
      modified = FindExtremes(c, slice);
    }
    token = modified.argmax;
    if (r.sample != 0 && r.temperature > 0) {
      token = Draw(c, slice, r, modified, p.vocab);
    }
  }
  if (c.rank == 0 && threadIdx.x == 0) {
    WriteResult(p, row, r, e, sums, token, log_sum_exp);
  }
  ClusterSync();  // others may still read this block's memory
}

__global__ void ClearCountsKernel(uint32_t* counts, int vocab) {
  const auto i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < vocab) {
    counts[i] = 0;
  }
}

__global__ void CountTokensKernel(const CountTokensParams p) {
  const auto i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < p.num_tokens && p.tokens[i] < static_cast<uint32_t>(p.vocab)) {
    atomicMax(&p.counts[p.tokens[i]], 1U);
    if (p.answer) {
      atomicAdd(&p.counts[p.tokens[i]], 1U);
    }
  }
}

constexpr int kMaxVocab = 1 << 18;

// Of a block of a cluster.
size_t SharedBytes(int vocab, int cluster) {
  return static_cast<size_t>((vocab + 4 * cluster - 1) / (4 * cluster)) * 4 * sizeof(float);
}

}  // namespace

size_t SamplingWorkspaceBytes(int max_rows, int vocab) {
  return ClusterSize() > 1 ? 0
                           : static_cast<size_t>(max_rows) * 4 * static_cast<size_t>((vocab + 3) / 4) * sizeof(float);
}

cudaError_t LaunchSampling(const SamplingParams& params, cudaStream_t stream, bool programmatic) {
  if (params.vocab < 1 || params.vocab > kMaxVocab) {
    return cudaErrorInvalidValue;
  }
  const int cluster = ClusterSize();
  SamplingParams p = params;
  size_t bytes = 0;
  if (cluster > 1) {
    p.workspace = nullptr;
    bytes = SharedBytes(p.vocab, cluster);
    // The most of any launch, not this one's: threads that launch on one device share the attribute.
    const cudaError_t status = cudaFuncSetAttribute(SamplingKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                    static_cast<int>(SharedBytes(kMaxVocab, cluster)));
    if (status != cudaSuccess) {
      return status;
    }
  }
  const dim3 grid(static_cast<unsigned>(cluster), static_cast<unsigned>(p.max_rows));
  return LaunchGrid(SamplingKernel, grid, dim3(kThreads), bytes, stream, programmatic, cluster, p);
}

cudaError_t LaunchCountTokens(const CountTokensParams& params, cudaStream_t stream) {
  if (params.clear) {
    const cudaError_t status = LaunchGrid(ClearCountsKernel, dim3(static_cast<unsigned>((params.vocab + 255) / 256)),
                                          dim3(256), 0, stream, false, 1, params.counts, params.vocab);
    if (status != cudaSuccess) {
      return status;
    }
  }
  if (params.num_tokens == 0) {
    return cudaSuccess;
  }
  return LaunchGrid(CountTokensKernel, dim3(static_cast<unsigned>((params.num_tokens + 255) / 256)), dim3(256), 0,
                    stream, false, 1, params);
}

}  // namespace flexquant::cuda
