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

// Devices whose properties are kept between launches.
inline constexpr int kMaxDevices = 16;

// Columns of the product, and of a chunk of them as they lie in the workspace and in shared memory.
inline int Split(const GemvParams& params) { return params.fine_widths != 0 ? 1 : 0; }
inline int Columns(const GemvParams& params) { return params.rows << Split(params); }
inline int ChunkColumns(const GemvParams& params) {
  const int columns = Columns(params);
  if (columns <= kTileColumns) {
    return columns;
  }
  if (params.portable || columns <= 2 * kTileColumns) {
    return 2 * kTileColumns;
  }
  return params.tuning.chunk_columns > 0 ? params.tuning.chunk_columns : kMaxChunkColumns;
}

// Workspace: counters, quantised values and scales of all chunks, partial sums.
inline int PaddedColumns(int columns) {
  return columns <= kTileColumns ? columns : static_cast<int>(CeilDiv(columns, kMaxChunkColumns)) * kMaxChunkColumns;
}
inline int64_t ValueBytes(int64_t blocks, int columns) {
  return Align256(blocks * PaddedColumns(columns) * kBlockCols);
}
inline int64_t ScaleBytes(int64_t blocks, int columns) {
  return Align256(blocks * ScaleColumns(PaddedColumns(columns)) * 8);
}
inline int64_t PartialBytes(int64_t tiles, int columns) {
  return tiles > kMaxCounters ? 0 : tiles * kGemvWarps * std::min(ScaleColumns(columns), 2 * kTileColumns) * 16 * 4;
}
inline int64_t ScalesAt(int64_t blocks, int columns) { return kGemvCounterBytes + ValueBytes(blocks, columns); }
inline int64_t PartialsAt(int64_t blocks, int columns) {
  return ScalesAt(blocks, columns) + ScaleBytes(blocks, columns);
}

// The quantisation alone: one launch in front of the decode kernel's.
cudaError_t LaunchQuantize(const GemvParams& params, cudaStream_t stream);
// Its result. values: [chunk][blocks][chunk's columns][64] int8, scales: [chunk][blocks][even columns] (scale, sum of
// values) fp32.
struct QuantizedView {
  int8_t* values;
  float2* scales;
};
inline QuantizedView QuantizedIn(const GemvParams& params) {
  auto* base = static_cast<uint8_t*>(params.workspace);
  return {reinterpret_cast<int8_t*>(base + kGemvCounterBytes),
          reinterpret_cast<float2*>(base + ScalesAt(params.weights.blocks(), Columns(params)))};
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

// A launch's configuration, which points into itself.
class LaunchConfig {
 public:
  LaunchConfig(dim3 grid, int threads, int shared, cudaStream_t stream) {
    config_.gridDim = grid;
    config_.blockDim = dim3(static_cast<unsigned>(threads));
    config_.dynamicSmemBytes = static_cast<size_t>(shared);
    config_.stream = stream;
    config_.attrs = attributes_;
  }
  LaunchConfig(const LaunchConfig&) = delete;
  LaunchConfig& operator=(const LaunchConfig&) = delete;

  // Starts while its predecessor runs.
  void SetDependent() {
    cudaLaunchAttribute& attribute = attributes_[config_.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  // Clusters of `blocks` blocks along x.
  void SetCluster(int blocks) {
    cudaLaunchAttribute& attribute = attributes_[config_.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(blocks);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  }
  const cudaLaunchConfig_t& get() const { return config_; }

 private:
  cudaLaunchAttribute attributes_[2] = {};
  cudaLaunchConfig_t config_{};
};

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_NESTED_LAUNCH_H_
