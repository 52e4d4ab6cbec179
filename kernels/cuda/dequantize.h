#ifndef FLEXQUANT_KERNELS_CUDA_DEQUANTIZE_H_
#define FLEXQUANT_KERNELS_CUDA_DEQUANTIZE_H_

// Tiles of a nested matrix to fp16 rows, for the prefill GEMM.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/nested_layout.h"

namespace flexquant::cuda {

// Tile t of [tile_begin, tile_end) gives rows (of `out`, which is device memory)
//     not paired  16 (t - tile_begin) + r                            for row r of the tile
//     paired      8 (t - tile_begin) + r % 8, plus paired_offset for r >= 8
// so the gate rows of a range come first, its up rows at paired_offset. Rows past the matrix are not written, nor are
// columns past cols.
struct DequantizeParams {
  DeviceNestedMatrix matrix;
  int64_t tile_begin = 0;
  int64_t tile_end = 0;
  int bits = 8;               // 3, 4, 5, 6 or 8
  float factor = 1.0F;        // on every weight; a power of two
  uint16_t* out = nullptr;    // fp16, 16-byte aligned
  int64_t stride = 0;         // halves a row, a multiple of 8
  int64_t paired_offset = 0;  // rows
};

cudaError_t LaunchDequantize(const DequantizeParams& params, cudaStream_t stream, bool programmatic = false);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_DEQUANTIZE_H_
