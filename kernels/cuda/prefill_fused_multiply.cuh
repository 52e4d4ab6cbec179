#ifndef FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_MULTIPLY_CUH_
#define FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_MULTIPLY_CUH_

// The multiplying warps of the fused prefill product: codes to fp16 operands in registers, and the tensor cores.

#include "kernels/cuda/nested_decode.cuh"
#include "kernels/cuda/prefill_fused_work.cuh"
#include "kernels/cuda/wgmma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

namespace flexquant::cuda::fused {

// weight = scale * (code + high) + low: `high` takes out the 1024 that makes a half of a byte, so that code + high is a
// small integer or half integer, and `low` is scale times what rounding left of it. Of rows r and r + 8.
struct HalfScales {
  __half2 scale;
  __half2 high;
  __half2 low;
};

__device__ inline HalfScales FindHalfScales(uint2 pairs, float mid) {
  const uint32_t scales = __byte_perm(pairs.x, pairs.y, 0x5410);
  const uint32_t zeros = __byte_perm(pairs.x, pairs.y, 0x7632);
  const __half2 scale = *reinterpret_cast<const __half2*>(&scales);
  const __half2 zero = *reinterpret_cast<const __half2*>(&zeros);
  const __half2 shift = __float2half2_rn(mid - 1024.0F);
  const __half2 high = __hsub2_rn(shift, zero);
  const __half2 rest = __hsub2_rn(__hsub2_rn(shift, high), zero);
  return {scale, high, __hmul2_rn(rest, scale)};
}

// Bytes 0 and 1 (kUpper: 2 and 3) of codes as two weights; scale, high and low are the row's, twice.
template <bool kUpper>
__device__ inline uint32_t TwoWeights(uint32_t codes, __half2 scale, __half2 high, __half2 low) {
  const uint32_t shifted = __byte_perm(codes, 0x64646464U, kUpper ? 0x4342 : 0x4140);  // 1024 + code
  const __half2 weights = __hfma2(__hadd2_rn(*reinterpret_cast<const __half2*>(&shifted), high), scale, low);
  return *reinterpret_cast<const uint32_t*>(&weights);
}

// A block's words to the operands of its four products.
template <int kBits>
__device__ __forceinline__ void Dequantize(const uint32_t (&words)[kBits], uint2 pairs, uint32_t (&a)[16]) {
  uint32_t codes[8];
  Unpack<kBits>(words, codes);
  const HalfScales s = FindHalfScales(pairs, MidOf(kBits));
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int at = i < 4 ? 4 * i : 4 * (i - 4) + 1;
    const __half2 scale = i < 4 ? __low2half2(s.scale) : __high2half2(s.scale);
    const __half2 high = i < 4 ? __low2half2(s.high) : __high2half2(s.high);
    const __half2 low = i < 4 ? __low2half2(s.low) : __high2half2(s.low);
    a[at] = TwoWeights<false>(codes[i], scale, high, low);
    a[at + 2] = TwoWeights<true>(codes[i], scale, high, low);
  }
}

// One of the multiplying warps; four of them, a warpgroup, go in step.
template <int kBits, int kTokens>
class Multiplier {
 public:
  using S = FusedShape<kBits, kTokens>;
  using Sums = float[kTokens / 2];
  __device__ Multiplier(const FusedArgs& args, const FusedWork& work, const Rings<kBits, kTokens>& rings)
      : args_(args), work_(work), rings_(rings), lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ __forceinline__ void Run(const uint8_t* shared, Sums& sums) {
    const uint8_t* own = shared + S::kActivationBytes + static_cast<int>(threadIdx.x) / 32 * S::kRecordBytes;
    uint32_t a[2][16];
    const int full = min(work_.end_record, args_.matrix.blocks / kRecordBlocks);
    for (int record = work_.first_record; record < full; ++record) {
      BarrierWait(rings_.WeightsFull(weights_.stage), weights_.parity);
      FullRecord(own + weights_.stage * S::kWeightStageBytes, record, a, sums);
    }
    WgmmaWait<0>();
    Pin(sums);
    Pin(a[1]);
    if (full > work_.first_record) {
      ReleaseActivations(kRecordBlocks - 1);
    }
    if (full < work_.end_record) {
      BarrierWait(rings_.WeightsFull(weights_.stage), weights_.parity);
      PartOfRecord(own + weights_.stage * S::kWeightStageBytes, full, a[0], sums);
    }
  }

 private:
  __device__ uint2 Scales(const uint8_t* record, int groups, int block) const {
    return reinterpret_cast<const uint2*>(record)[lane_ / 4 * groups + block / args_.matrix.group_blocks];
  }

  // Blocks take the two sets of operands in turn; the last one's product goes on when this returns.
  __device__ __forceinline__ void FullRecord(const uint8_t* at, int record, uint32_t (&a)[2][16], Sums& sums) {
    const int groups = kRecordBlocks / args_.matrix.group_blocks;
    uint4 words[kBits];
#pragma unroll
    for (int w = 0; w < kBits; ++w) {
      words[w] = reinterpret_cast<const uint4*>(at + 64 * groups + w * kRecordBlocks * kBlockWordBytes)[lane_];
    }
    uint2 scales[kRecordBlocks];
#pragma unroll
    for (int i = 0; i < kRecordBlocks; ++i) {
      scales[i] = Scales(at, groups, i);
    }
    ReleaseWeights();
#pragma unroll
    for (int i = 0; i < kRecordBlocks; ++i) {
      uint32_t block_words[kBits];
#pragma unroll
      for (int w = 0; w < kBits; ++w) {
        block_words[w] = i == 0 ? words[w].x : i == 1 ? words[w].y : i == 2 ? words[w].z : words[w].w;
      }
      Dequantize<kBits>(block_words, scales[i], a[i % 2]);
      StartProduct(record, i, a[i % 2], sums);
      // Of the block before: its operands may be written again.
      WgmmaWait<1>();
      Pin(a[1 - i % 2]);
      if (i > 0 || record > work_.first_record) {
        ReleaseActivations((i + kRecordBlocks - 1) % kRecordBlocks);
      }
    }
  }

  // The matrix's last record, if it is not full.
  __device__ __forceinline__ void PartOfRecord(const uint8_t* at, int record, uint32_t (&a)[16], Sums& sums) {
    const int blocks = args_.matrix.blocks - record * kRecordBlocks;
    const int groups = (blocks + args_.matrix.group_blocks - 1) / args_.matrix.group_blocks;
#pragma unroll 1
    for (int i = 0; i < blocks; ++i) {
      uint32_t words[kBits];
#pragma unroll
      for (int w = 0; w < kBits; ++w) {
        const uint8_t* word = at + 64 * groups + w * blocks * kBlockWordBytes;
        words[w] = reinterpret_cast<const uint32_t*>(word)[lane_ * blocks + i];
      }
      Dequantize<kBits>(words, Scales(at, groups, i), a);
      StartProduct(record, i, a, sums);
      WgmmaWait<0>();
      Pin(sums);
      Pin(a);
    }
  }

  __device__ __forceinline__ void StartProduct(int record, int stage, uint32_t (&a)[16], Sums& sums) {
    BarrierWait(rings_.ActivationsFull(stage), (record - work_.first_record) % 2);
    Pin(a);
    WgmmaFence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      Multiply(sums, a + 4 * k, SwizzledOperand(rings_.activations + stage * S::kActivationStageBytes, k));
    }
    WgmmaCommit();
  }

  __device__ __forceinline__ void ReleaseActivations(int stage) {
    if (lane_ < args_.share) {
      ClusterBarrierArrive(ClusterAddress(rings_.ActivationsEmpty(stage), work_.split + args_.splits * lane_));
    }
  }

  __device__ __forceinline__ void ReleaseWeights() {
    __syncwarp();
    BarrierArrive(rings_.WeightsEmpty(weights_.stage));
    weights_.Next();
  }

  const FusedArgs& args_;
  const FusedWork& work_;
  const Rings<kBits, kTokens>& rings_;
  const int lane_;
  Turn<S::kWeightStages> weights_;
};

}  // namespace flexquant::cuda::fused

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

#endif  // FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_MULTIPLY_CUH_
