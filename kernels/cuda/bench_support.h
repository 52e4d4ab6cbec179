#ifndef FLEXQUANT_KERNELS_CUDA_BENCH_SUPPORT_H_
#define FLEXQUANT_KERNELS_CUDA_BENCH_SUPPORT_H_

// What benchmarks need on the device: weights without a file, and the memory's own speed. Stream-ordered launches.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/nested_layout.h"

namespace flexquant::cuda {

// Fills a matrix's memory: codes from a hash of `seed`, every scale 2^-12 and zero 128, so that weights are uniform
// with a standard deviation of 0.018.
cudaError_t LaunchRandomRecords(const DeviceNestedMatrix& matrix, uint32_t seed, cudaStream_t stream);

// Fills floats with `value`.
cudaError_t LaunchFill(float* data, size_t count, float value, cudaStream_t stream);

// Fills bf16 values with uniform ones from -1 to 1: a product of zeros takes less power, and so runs at a higher clock.
cudaError_t LaunchRandomBf16(uint16_t* data, size_t count, uint32_t seed, cudaStream_t stream);

// Reads `bytes` (a multiple of 16) and nothing else: the ceiling of a kernel that only reads. `sink` [1] is practically
// never written.
cudaError_t LaunchReadOnly(const void* data, size_t bytes, int blocks, uint32_t* sink, cudaStream_t stream);

// Copies `bytes` (a multiple of 16).
cudaError_t LaunchCopy(const void* from, void* to, size_t bytes, int blocks, cudaStream_t stream);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_BENCH_SUPPORT_H_
