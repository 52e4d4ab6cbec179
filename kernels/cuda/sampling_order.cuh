#ifndef FLEXQUANT_KERNELS_CUDA_SAMPLING_ORDER_CUH_
#define FLEXQUANT_KERNELS_CUDA_SAMPLING_ORDER_CUH_

// Finding a token by a running sum over ids.

#include "kernels/cuda/sampling_cluster.cuh"

namespace flexquant::cuda::sampling {

// The first of `count` parts at which the running sum, from `before`, exceeds `target`, else the last positive one;
// `before` becomes the sum in front of it.
__device__ inline int FindPart(const double* parts, int count, double target, double& before) {
  int part = 0;
  double running = before;
  bool found = false;
  for (int i = 0; i < count; ++i) {
    if (!found && parts[i] > 0) {
      part = i;
      before = running;
      found = running + parts[i] > target;
    }
    running += parts[i];
  }
  return part;
}

// FindPart over the lanes of a warp, whose parts are `mine`.
__device__ inline int FindLane(double mine, double target, double& before) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  double scan = mine;
  for (int offset = 1; offset < 32; offset *= 2) {
    const double left = __shfl_up_sync(~0U, scan, static_cast<unsigned>(offset));
    scan += lane >= offset ? left : 0.0;
  }
  const unsigned positive = __ballot_sync(~0U, mine > 0);
  const unsigned hits = __ballot_sync(~0U, mine > 0 && before + scan > target);
  const int found =
      hits != 0 ? __ffs(static_cast<int>(hits)) - 1 : (positive != 0 ? 31 - __clz(static_cast<int>(positive)) : 0);
  before += __shfl_sync(~0U, scan - mine, found);
  return found;
}

// The first token, by id, at which the running sum of measure(logit, id) (double, not negative) exceeds offset +
// fraction * total; the last with a positive measure if rounding leaves none. kOverwrite: the measures, which are
// floats, take the place of the logits, so that each is computed once.
template <bool kOverwrite, class Measure>
__device__ uint32_t FindInOrder(Cluster& c, const Slice& slice, Measure measure, double offset, double fraction) {
  Shared& s = *c.shared;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int chunk = ((slice.count + kThreads - 1) / kThreads | 1) * 32;  // an odd run a lane: no bank conflicts
  const int begin = ::min(slice.count, warp * chunk);
  const int end = ::min(slice.count, begin + chunk);
  const auto at = [&](int i) { return i < end ? measure(slice.x[i], static_cast<uint32_t>(slice.begin + i)) : 0.0; };
  double sum = 0;
#pragma unroll 4
  for (int i = begin + lane; i < end; i += 32) {
    const double measured = at(i);
    sum += measured;
    if constexpr (kOverwrite) {
      slice.x[i] = static_cast<float>(measured);
    }
  }
  __syncwarp();
  const auto again = [&](int i) {
    if constexpr (kOverwrite) {
      return i < end ? static_cast<double>(slice.x[i]) : 0.0;
    } else {
      return at(i);
    }
  };
  for (int mask = 1; mask < 32; mask *= 2) {
    sum += __shfl_xor_sync(~0U, sum, mask);
  }
  if (lane == 0) {
    s.warp_sums[warp] = sum;
  }
  __syncthreads();
  double sums[kWarps];
  double blocks[kMaxBlocks];
  double total = 0;
  for (int w = 0; w < kWarps; ++w) {
    sums[w] = s.warp_sums[w];
    total += sums[w];
  }
  GatherCluster(c, total, blocks);
  double all = 0;
  for (int rank = 0; rank < c.size; ++rank) {
    all += blocks[rank];
  }
  const double target = offset + fraction * all;
  double before = 0;
  const int owner = FindPart(blocks, c.size, target, before);
  const int owner_warp = FindPart(sums, kWarps, target, before);
  if (c.rank == owner && warp == owner_warp) {
    // Lane i sums a run of its own, then all share the run that holds the token.
    const int run = chunk / 32;
    double mine = 0;
    for (int i = 0; i < run; ++i) {
      mine += again(begin + lane * run + i);
    }
    const int owner_lane = FindLane(mine, target, before);
    uint32_t id = 0;
    for (int i = 0; i < run; i += 32) {
      mine = i + lane < run ? again(begin + owner_lane * run + i + lane) : 0.0;
      const bool any = __any_sync(~0U, mine > 0);
      const int hit = FindLane(mine, target, before);
      if (any) {
        id = static_cast<uint32_t>(slice.begin + begin + owner_lane * run + i + hit);
      }
      if (__shfl_sync(~0U, static_cast<int>(before + mine > target), hit) != 0 && any) {
        break;
      }
      before += __shfl_sync(~0U, mine, hit);
    }
    s.found[2] = id;
  }
  __syncthreads();
  uint32_t ids[kMaxBlocks];
  GatherCluster(c, s.found[2], ids);
  return ids[owner];
}

}  // namespace flexquant::cuda::sampling

#endif  // FLEXQUANT_KERNELS_CUDA_SAMPLING_ORDER_CUH_
