#ifndef FLEXQUANT_KERNELS_CUDA_NESTED_DECODE_CUH_
#define FLEXQUANT_KERNELS_CUDA_NESTED_DECODE_CUH_

// Weights from the records of kernels/cuda/nested_layout.h, for what is not a GEMV.

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/nested_layout.h"
#include "kernels/cuda/unpack.cuh"

namespace flexquant::cuda {

// What of a matrix the device needs.
struct RecordGeometry {
  const uint8_t* data;
  int64_t rows;
  int64_t cols;
  int64_t tile_bytes;
  int64_t record_bytes;
  int blocks;
  int group_blocks;
  bool paired;
};

inline RecordGeometry GeometryOf(const DeviceNestedMatrix& matrix) {
  return {matrix.data,
          matrix.rows,
          matrix.cols,
          matrix.tile_bytes(),
          matrix.record_bytes(),
          static_cast<int>(matrix.blocks()),
          static_cast<int>(matrix.group_blocks()),
          matrix.paired};
}

// Where a record of a tile lies and how it is divided.
struct RecordView {
  const uint8_t* scales;
  const uint8_t* words;
  int blocks;  // 1 to 4
  int groups;
};

__device__ inline RecordView FindRecord(const RecordGeometry& matrix, int64_t tile, int record) {
  RecordView view;
  view.blocks = min(matrix.blocks - record * kRecordBlocks, kRecordBlocks);
  view.groups = (view.blocks + matrix.group_blocks - 1) / matrix.group_blocks;
  view.scales = matrix.data + tile * matrix.tile_bytes + record * matrix.record_bytes;
  view.words = view.scales + view.groups * 64;
  return view;
}

// Of row r (upper = 0) or r + 8 (upper = 1) of the tile: weight = scale * (code + offset).
struct ScaleOffset {
  float scale;
  float offset;
};

__device__ inline ScaleOffset LoadScale(const RecordView& record, int r, int group, int upper, float mid) {
  const __half2 pair = reinterpret_cast<const __half2*>(record.scales)[(r * record.groups + group) * 2 + upper];
  const float2 values = __half22float2(pair);
  return {values.x, mid - values.y};
}

__device__ __host__ inline float MidOf(int bits) { return static_cast<float>((1 << (8 - bits)) - 1) * 0.5F; }

// Byte `kByte` of codes as a weight.
template <int kByte>
__device__ inline float DecodeCode(uint32_t codes, const ScaleOffset& s) {
  // 2^23 + code, bit by bit.
  const float shifted = __uint_as_float(__byte_perm(codes, 0x4B000000U, 0x7440 + kByte));
  return s.scale * ((shifted - 8388608.0F) + s.offset);
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_NESTED_DECODE_CUH_
