#ifndef FLEXQUANT_KERNELS_CUDA_NESTED_WIDTHS_CUH_
#define FLEXQUANT_KERNELS_CUDA_NESTED_WIDTHS_CUH_

// Which columns the product has for a chunk of rows, read from the widths on the device: the quantising kernel and the
// decode kernel ask alike, so that one finds what the other wrote.

#include <cstdint>

namespace flexquant::cuda {

struct ChunkWidths {
  int tokens;  // rows that are valid; equal on all lanes
  int bits;    // of column threadIdx.x % 32; 3 if it is not computed
};

// Rows [first_row, first_row + rows) of the batch, 1 << split columns each, at most 32 columns.
__device__ __forceinline__ ChunkWidths LoadChunkWidths(const uint8_t* widths, const int32_t* valid_rows, int first_row,
                                                       int rows, int split) {
  ChunkWidths chunk;
  const int row = (static_cast<int>(threadIdx.x) % 32) >> split;
  // Both loads in flight at once: the ring waits for them.
  const int width = row < rows ? widths[first_row + row] : 3;
  chunk.tokens = valid_rows == nullptr ? rows : min(rows, max(0, *valid_rows - first_row));
  chunk.bits = row < chunk.tokens ? width : 3;
  return chunk;
}

// Bit c: column c has 15-bit activations. `bits`: ChunkWidths's.
__device__ __forceinline__ uint32_t FineColumns(int bits, uint32_t fine_widths) {
  return __ballot_sync(0xFFFFFFFFU, (fine_widths >> bits & 1U) != 0);
}

// Whether a chunk of rows, two columns each, is computed with one a row: no row's width takes 15-bit activations.
__device__ __forceinline__ bool DropsLowColumns(uint32_t fine_columns, int split, bool keep_low_columns) {
  return split != 0 && fine_columns == 0 && !keep_low_columns;
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_NESTED_WIDTHS_CUH_
