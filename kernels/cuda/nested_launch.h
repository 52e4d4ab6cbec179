#ifndef FLEXQUANT_KERNELS_CUDA_NESTED_LAUNCH_H_
#define FLEXQUANT_KERNELS_CUDA_NESTED_LAUNCH_H_

// What the launches of nested_gemv.cu and nested_quantize.cu share: checks, the workspace, launch attributes. Internal.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/nested_gemv.h"
#include "kernels/cuda/nested_gemv_args.h"

namespace flexquant::cuda {

inline constexpr int kMaxCounters = static_cast<int>(kGemvCounterBytes / sizeof(unsigned));

constexpr int64_t Align256(int64_t value) { return CeilDiv(value, 256) * 256; }

// Columns of the product, in chunks of kMaxChunkColumns.
inline int Split(const GemvParams& params) { return params.fine_widths != 0 ? 1 : 0; }
inline int Columns(const GemvParams& params) { return params.rows << Split(params); }
inline int ScaleColumns(int columns) { return (columns + 1) / 2 * 2; }

// Workspace: counters, quantised values and scales of all chunks, partial sums.
inline int64_t ValueBytes(int64_t blocks, int columns) { return Align256(blocks * columns * kBlockCols); }
inline int64_t ScaleBytes(int64_t blocks, int columns) { return Align256(blocks * ScaleColumns(columns) * 8); }
inline int64_t PartialBytes(int64_t tiles, int columns) {
  return tiles > kMaxCounters ? 0 : Align256(tiles * kGemvWarps * std::min(columns, kMaxChunkColumns) * 16 * 4);
}
inline int64_t ScalesAt(int64_t blocks, int columns) { return kGemvCounterBytes + ValueBytes(blocks, columns); }
inline int64_t PartialsAt(int64_t blocks, int columns) {
  return ScalesAt(blocks, columns) + ScaleBytes(blocks, columns);
}

inline bool Aligned16(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

inline ActivationInput InputOf(const GemvParams& params) {
  const bool vectors =
      params.weights.cols % 4 == 0 && params.ldx % 4 == 0 && Aligned16(params.x) && Aligned16(params.norm_weight);
  return {params.x,
          params.ldx,
          static_cast<int>(params.weights.cols),
          params.norm_weight,
          params.norm_eps,
          1.0F / static_cast<float>(params.weights.cols),
          static_cast<int>(params.weights.group_blocks()),
          vectors};
}

inline bool Valid(const GemvParams& params) {
  const DeviceNestedMatrix& w = params.weights;
  return w.rows > 0 && w.cols > 0 && w.cols < (1 << 24) && w.rows < (1 << 27) && params.rows > 0 &&
         params.rows <= kMaxGemvRows && (w.group_size == 64 || w.group_size == 128) && params.widths != nullptr &&
         params.workspace != nullptr && (!w.paired || w.rows % 2 == 0) &&
         (params.epilogue != GemvEpilogue::kSiluMul || w.paired);
}

inline cudaLaunchConfig_t Config(dim3 grid, int threads, int shared, cudaLaunchAttribute* attribute, bool dependent,
                                 cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared);
  config.stream = stream;
  attribute->id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute->val.programmaticStreamSerializationAllowed = 1;
  config.attrs = attribute;
  config.numAttrs = dependent ? 1 : 0;
  return config;
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_NESTED_LAUNCH_H_
