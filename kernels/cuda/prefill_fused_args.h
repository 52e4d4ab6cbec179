#ifndef FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_ARGS_H_
#define FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_ARGS_H_

// Between the launch of the fused prefill product and its kernel.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/nested_decode.cuh"
#include "kernels/cuda/prefill_fused.h"

namespace flexquant::cuda::fused {

inline constexpr int kMaxCluster = 8;
inline constexpr int kSharedBytes = 227 * 1024;
inline constexpr int kActivationStages = kRecordBlocks;  // block i of a record has stage i

// Multiplying warps of a thread block, each with a tile. Fewer sums a thread leave registers for more warps, which hide
// each other's latencies.
inline constexpr int MultipliersOf(int tokens) { return tokens == 64 ? 16 : 8; }

// Of a thread block for kTokens tokens.
template <int kTokens>
struct FusedBlock {
  static constexpr int kMultipliers = MultipliersOf(kTokens);
  static constexpr int kRows = kMultipliers * static_cast<int>(kTileRows);
  static constexpr int kThreads = 32 * kMultipliers + 128;  // and the fetching warps, in a warpgroup for themselves
  // Registers a thread: equal parts at launch, then the fetching warpgroup gives most of its own away.
  static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
  static constexpr int kFetchRegisters = kMultipliers == 16 ? 32 : 40;
  static constexpr int kMultiplyRegisters = kMultipliers == 16 ? 112 : 232;
  static_assert(32 * kMultipliers * kMultiplyRegisters + 128 * kFetchRegisters <= kThreads * kLaunchRegisters,
                "or claiming registers waits for ever");
  // Of a token's sums in shared memory: four words of padding let the lanes of a warp store to different banks.
  static constexpr int kSumStride = kRows + 4;
};

template <int kBits, int kTokens>
struct FusedShape : FusedBlock<kTokens> {
  using Block = FusedBlock<kTokens>;
  static constexpr int kRecordBytes =
      kRecordBlocks * 64 + kRecordBlocks * kBits * kBlockWordBytes;  // of groups of 64: the most
  static constexpr int kActivationStageBytes = kTokens * kBlockCols * 2;
  static constexpr int kActivationBytes = kActivationStages * kActivationStageBytes;
  static constexpr int kWeightStageBytes = Block::kMultipliers * kRecordBytes;
  static constexpr int kMaxWeightStages = 6;
  static constexpr int kFitting = (kSharedBytes - kActivationBytes - 1024) / kWeightStageBytes;
  static constexpr int kWeightStages = kFitting < kMaxWeightStages ? kFitting : kMaxWeightStages;
  static constexpr int kWeightBytes = kWeightStages * kWeightStageBytes;
  static constexpr int kTotalBytes = kActivationBytes + kWeightBytes + 16 * (kActivationStages + kWeightStages);
  static_assert(kWeightStages >= 2, "a record is fetched while another is multiplied");
  static_assert(kTokens * Block::kSumStride * 4 <= kActivationBytes + kWeightBytes, "sums lie where the rings were");
};

struct FusedArgs {
  RecordGeometry matrix;
  const uint16_t* x;
  int64_t block_rows;
  const float* row_scale;
  const float* bias;
  float* y;
  int64_t y_stride;
  GemvEpilogue epilogue;
  int num_tokens;
  int tiles;
  int splits;
  int share;
  bool vectors;  // y takes stores of 16 bytes
};

// Launches the instance for args' splits and share; block tokens 64, 128 and 256. Defined in a file each.
template <int kTokens>
cudaError_t LaunchInstance(const FusedArgs& args, int bits, cudaStream_t stream, bool programmatic);
extern template cudaError_t LaunchInstance<64>(const FusedArgs&, int, cudaStream_t, bool);
extern template cudaError_t LaunchInstance<128>(const FusedArgs&, int, cudaStream_t, bool);
extern template cudaError_t LaunchInstance<256>(const FusedArgs&, int, cudaStream_t, bool);

}  // namespace flexquant::cuda::fused

#endif  // FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_ARGS_H_
