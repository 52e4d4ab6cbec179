#ifndef FLEXQUANT_KERNELS_CUDA_ROPE_CUH_
#define FLEXQUANT_KERNELS_CUDA_ROPE_CUH_

// One head of q, k or v in a warp's registers: bias, RMS norm and rotation, the same bits wherever it runs.

#include "kernels/cuda/ops_common.cuh"

namespace flexquant::cuda {

// Lane i of a warp holds pairs i, i + 32, ... of a head: elements j and j + head_dim / 2.
template <int kPairs>
struct Head {
  float low[kPairs];
  float high[kPairs];
};

// Cosines and sines of a lane's pairs.
template <int kPairs>
struct Angles {
  float2 pair[kPairs];
};

// `bias`: of this head, or null.
template <int kPairs>
__device__ __forceinline__ Head<kPairs> LoadHead(const float* from, const float* bias, int half, int lane) {
  Head<kPairs> x;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int j = lane + 32 * i;
    x.low[i] = j < half ? __ldcg(from + j) : 0.0F;
    x.high[i] = j < half ? __ldcg(from + j + half) : 0.0F;
    if (bias != nullptr && j < half) {
      x.low[i] += bias[j];
      x.high[i] += bias[j + half];
    }
  }
  return x;
}

template <int kPairs>
__device__ __forceinline__ void Normalise(const float* weight, float eps, int half, int lane, Head<kPairs>& x) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    sum += x.low[i] * x.low[i] + x.high[i] * x.high[i];
  }
  const float scale = 1.0F / sqrtf(WarpSum(sum) / static_cast<float>(2 * half) + eps);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int j = lane + 32 * i;
    if (j < half) {
      x.low[i] *= scale * weight[j];
      x.high[i] *= scale * weight[j + half];
    }
  }
}

// `angles`: of the position.
template <int kPairs>
__device__ __forceinline__ Angles<kPairs> LoadAngles(const float2* angles, int half, int lane) {
  Angles<kPairs> result;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int j = lane + 32 * i;
    result.pair[i] = j < half ? angles[j] : float2{1, 0};
  }
  return result;
}

template <int kPairs>
__device__ __forceinline__ void Rotate(const Angles<kPairs>& angles, Head<kPairs>& x) {
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const float2 a = angles.pair[i];
    const float low = x.low[i];
    x.low[i] = low * a.x - x.high[i] * a.y;
    x.high[i] = x.high[i] * a.x + low * a.y;
  }
}

template <class T, int kPairs>
__device__ __forceinline__ void StoreHead(T* to, int half, int lane, const Head<kPairs>& x) {
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int j = lane + 32 * i;
    if (j < half) {
      to[j] = static_cast<T>(x.low[i]);
      to[j + half] = static_cast<T>(x.high[i]);
    }
  }
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_ROPE_CUH_
