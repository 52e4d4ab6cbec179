#ifndef FLEXQUANT_KERNELS_CUDA_ACTIVATION_BLOCKS_H_
#define FLEXQUANT_KERNELS_CUDA_ACTIVATION_BLOCKS_H_

// The order in which the fused prefill product (kernels/cuda/prefill_fused.h) reads its fp16 activations, so that a
// tile of them is one contiguous copy and lies in shared memory as the tensor cores want it.
//
// Blocks of 64 columns follow each other; a block is [block_rows][64] halves, block_rows a multiple of 8, and its
// columns past the matrix's are zero. Within a row of a block, column 16 c + 4 j + 2 h + i (c, j < 4, h, i < 2) is at
// 16 j + 8 h + 2 c + i: lane (row, c) of a tensor-core operand then needs the columns 16 c .. 16 c + 15 that it has of
// the weights (kernels/cuda/nested_layout.h). The eight 16-byte chunks of a row are permuted by the row's number, the
// 128-byte swizzle.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace flexquant::cuda {

inline constexpr int kActivationBlockCols = 64;

inline int64_t ActivationBlockRows(int64_t rows) { return (rows + 7) / 8 * 8; }

// Halves of [rows, cols] activations.
inline size_t BlockedActivations(int64_t rows, int64_t cols) {
  return static_cast<size_t>(ActivationBlockRows(rows) * ((cols + kActivationBlockCols - 1) / kActivationBlockCols) *
                             kActivationBlockCols);
}

// Where the chunk of eight halves lies that holds columns 16 c + 2 chunk and the next one, c = 0..3, of a block.
inline __host__ __device__ int64_t ActivationChunk(int64_t block_rows, int64_t row, int64_t block, int64_t chunk) {
  return (block * block_rows + row) * kActivationBlockCols + ((chunk ^ (row % 8)) * 8);
}

// Where an even column and the one after it lie.
inline __host__ __device__ int64_t ActivationPair(int64_t block_rows, int64_t row, int64_t col) {
  const int64_t in_block = col % kActivationBlockCols;
  return ActivationChunk(block_rows, row, col / kActivationBlockCols, in_block / 2 % 8) + in_block / 16 * 2;
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_ACTIVATION_BLOCKS_H_
