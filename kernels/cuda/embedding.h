#ifndef FLEXQUANT_KERNELS_CUDA_EMBEDDING_H_
#define FLEXQUANT_KERNELS_CUDA_EMBEDDING_H_

// Token embeddings: rows of a matrix at 8 bits, or of its reference, to fp32.

#include <cuda_runtime.h>

#include <cstdint>

#include "common/nested_matrix.h"
#include "kernels/cuda/nested_layout.h"

namespace flexquant::cuda {

// All pointers are device memory. The quantised table is `records` (the layout of the decode GEMV, so a tied head is
// stored once) if its data is not null, else the planes of `planes` in the store's own layout. planes.reference serves
// rows of 16 bits whichever it is.
struct EmbeddingParams {
  DeviceNestedMatrix records;
  NestedMatrix planes;
  const uint32_t* tokens = nullptr;   // [max_rows]; zeros for one that is not below the rows of the table
  const uint8_t* bits = nullptr;      // [max_rows], 16 = the reference, anything else 8 bits; null = all 8 bits
  const int32_t* num_rows = nullptr;  // [1], or null for max_rows
  int max_rows = 0;
  float* hidden = nullptr;  // [max_rows, cols]
};

cudaError_t LaunchEmbedding(const EmbeddingParams& params, cudaStream_t stream, bool programmatic = false);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_EMBEDDING_H_
