#ifndef FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_EPILOGUE_CUH_
#define FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_EPILOGUE_CUH_

// The end of the fused prefill product: sums of a cluster's splits, and what becomes of them.

#include "kernels/cuda/ops_common.cuh"
#include "kernels/cuda/prefill_fused_work.cuh"
#include "kernels/cuda/wgmma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

namespace flexquant::cuda::fused {

// A warp's sums to shared memory, [tokens][kSumStride].
template <int kTokens>
__device__ __forceinline__ void StoreSums(const float (&sums)[kTokens / 2], int tokens, float* shared) {
  constexpr int kSumStride = FusedBlock<kTokens>::kSumStride;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float* to = shared + lane % 4 * 2 * kSumStride + static_cast<int>(threadIdx.x) / 32 * kTileRows + lane / 4;
#pragma unroll
  for (int n = 0; n < kTokens / 8; ++n) {
    if (8 * n < tokens) {
      to[8 * n * kSumStride] = sums[4 * n];
      to[(8 * n + 1) * kSumStride] = sums[4 * n + 1];
      to[8 * n * kSumStride + 8] = sums[4 * n + 2];
      to[(8 * n + 1) * kSumStride + 8] = sums[4 * n + 3];
    }
  }
}

// Four floats, or as many as there are: `left`, maybe none or fewer.
__device__ inline float4 LoadFour(const float* from, int left, bool vector) {
  if (vector && left >= 4) {
    return *reinterpret_cast<const float4*>(from);
  }
  return {left > 0 ? from[0] : 0.0F, left > 1 ? from[1] : 0.0F, left > 2 ? from[2] : 0.0F, left > 3 ? from[3] : 0.0F};
}

__device__ inline void StoreFour(float* to, float4 x, int left, bool vector) {
  if (vector && left >= 4) {
    *reinterpret_cast<float4*>(to) = x;
    return;
  }
  const float values[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (left > i) {
      to[i] = values[i];
    }
  }
}

__device__ inline float4 ScaleAndAdd(float4 x, float scale, float4 y) {
  return {x.x * scale + y.x, x.y * scale + y.y, x.z * scale + y.z, x.w * scale + y.w};
}

__device__ inline float SiluMul(float gate, float up) { return __fdividef(gate, 1.0F + __expf(-gate)) * up; }

// Of four lanes that have a tile of a paired matrix, the first two get the outputs.
__device__ inline float4 SiluMulOfTile(float4 x) {
  const float4 up = {__shfl_xor_sync(~0U, x.x, 2), __shfl_xor_sync(~0U, x.y, 2), __shfl_xor_sync(~0U, x.z, 2),
                     __shfl_xor_sync(~0U, x.w, 2)};
  return {SiluMul(x.x, up.x), SiluMul(x.y, up.y), SiluMul(x.z, up.z), SiluMul(x.w, up.w)};
}

// A multiplying thread: four rows of every eighth of this split's tokens. `shared` is the address of StoreSums' place,
// the same in every block.
template <int kTokens>
__device__ inline void FinishSums(const FusedArgs& args, const FusedWork& work, uint32_t shared) {
  constexpr int kAtOnce = 4;  // tokens whose loads are under way together
  constexpr int kQuads = FusedBlock<kTokens>::kRows / 4;
  constexpr int kTokensAtOnce = 32 * FusedBlock<kTokens>::kMultipliers / kQuads;
  const int quad = static_cast<int>(threadIdx.x) % kQuads;
  const bool paired = args.matrix.paired;
  const auto limit = static_cast<int>(paired ? args.matrix.rows / 2 : args.matrix.rows);
  const int first = paired ? 8 * (work.first_tile + quad / 4) + quad % 2 * 4 : 16 * work.first_tile + 4 * quad;
  const int left = limit - first;
  const bool writes = !paired || quad % 4 < 2;
  float4 bias = {0, 0, 0, 0};
  if (args.bias != nullptr) {
    bias = LoadFour(args.bias + first + (writes ? 0 : limit), left, false);
  }
  const int step = kTokensAtOnce * args.splits;
  for (int t = static_cast<int>(threadIdx.x) / kQuads * args.splits + work.split; t < work.tokens;
       t += kAtOnce * step) {
    float4 sum[kAtOnce];
    float4 old[kAtOnce];
    float scale[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int token = min(t + i * step, work.tokens - 1);
      scale[i] = args.row_scale == nullptr ? 1.0F : args.row_scale[work.first_token + token];
      old[i] = bias;
      if (args.epilogue == GemvEpilogue::kAdd) {
        const float* y = args.y + (work.first_token + token) * args.y_stride + first;
        old[i] = ScaleAndAdd(LoadFour(y, left, args.vectors), 1.0F, bias);
      }
      sum[i] = {0, 0, 0, 0};
      for (int split = 0; split < args.splits; ++split) {
        const uint32_t at = shared + static_cast<uint32_t>(token * FusedBlock<kTokens>::kSumStride + 4 * quad) * 4;
        const float4 part = LoadOfCluster(ClusterAddress(at, split + args.splits * work.share_rank));
        sum[i] = ScaleAndAdd(part, 1.0F, sum[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      float4 result = ScaleAndAdd(sum[i], scale[i], old[i]);
      if (paired) {
        result = SiluMulOfTile(result);
      }
      if (writes && t + i * step < work.tokens) {
        StoreFour(args.y + (work.first_token + t + i * step) * args.y_stride + first, result, left, args.vectors);
      }
    }
  }
}

}  // namespace flexquant::cuda::fused

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

#endif  // FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_EPILOGUE_CUH_
