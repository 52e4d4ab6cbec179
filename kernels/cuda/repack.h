#ifndef FLEXQUANT_KERNELS_CUDA_REPACK_H_
#define FLEXQUANT_KERNELS_CUDA_REPACK_H_

// Planes of the store -> device layout (kernels/cuda/nested_layout.h).

#include <cuda_runtime.h>

#include <cstdint>

#include "common/nested_matrix.h"
#include "kernels/cuda/nested_layout.h"

namespace flexquant::cuda {

// Tiles [first_tile, first_tile + num_tiles) of a matrix in the layout of common/nested_matrix.h, in device memory;
// every pointer is to the range's first tile.
struct StagedPlanes {
  int64_t first_tile = 0;
  int64_t num_tiles = 0;
  const uint8_t* base3 = nullptr;
  const uint8_t* bit4 = nullptr;
  const uint8_t* bit5 = nullptr;
  const uint8_t* bit6 = nullptr;
  const uint8_t* bits78 = nullptr;
  const uint16_t* scales = nullptr;
};

// Zeroes the matrix's memory; before the first LaunchRepack of it, on the same stream.
cudaError_t LaunchRepackClear(const DeviceNestedMatrix& matrix, cudaStream_t stream);

// Adds the staged tiles to the matrix. Ranges may come in any order, each tile once. The staging buffer may be reused
// when the stream has passed the launch.
cudaError_t LaunchRepack(const StagedPlanes& planes, const DeviceNestedMatrix& matrix, cudaStream_t stream);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_REPACK_H_
