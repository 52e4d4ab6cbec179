#include <cuda_bf16.h>

#include "kernels/cuda/bench_support.h"

namespace flexquant::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kGridBlocks = 2048;
constexpr uint32_t kScaleAndZero = 0x58000C00U;  // half2: 2^-12, 128

__device__ uint32_t Hash(size_t i, uint32_t seed) {
  uint64_t z = (i + 1 + (static_cast<uint64_t>(seed) << 40)) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  return static_cast<uint32_t>((z ^ (z >> 27)) >> 16);
}

__global__ void HashKernel(uint32_t* data, size_t words, uint32_t seed) {
  const size_t step = size_t{gridDim.x} * blockDim.x;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < words; i += step) {
    data[i] = Hash(i, seed);
  }
}

__global__ void Bf16Kernel(uint16_t* data, size_t count, uint32_t seed) {
  const size_t step = size_t{gridDim.x} * blockDim.x;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += step) {
    const float x = static_cast<float>(static_cast<int32_t>(Hash(i, seed))) * 0x1p-31F;
    data[i] = __bfloat16_as_ushort(__float2bfloat16(x));
  }
}

// A block a tile. A record of `record_bytes` starts with the scales of its `record_groups` groups, the last one of
// fewer.
__global__ void ScalesKernel(uint8_t* data, int64_t tile_bytes, int64_t record_bytes, int groups, int record_groups) {
  uint8_t* tile = data + blockIdx.x * tile_bytes;
  for (int i = threadIdx.x; i < groups * 16; i += blockDim.x) {
    const int record = i / 16 / record_groups;
    const int in_record = i - record * record_groups * 16;
    reinterpret_cast<uint32_t*>(tile + record * record_bytes)[in_record] = kScaleAndZero;
  }
}

__global__ void FillKernel(float* data, size_t count, float value) {
  const size_t step = size_t{gridDim.x} * blockDim.x;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += step) {
    data[i] = value;
  }
}

__global__ void ReadKernel(const uint4* data, size_t count, uint32_t* sink) {
  constexpr int kInFlight = 8;
  uint32_t sum = 0;
  const size_t step = size_t{gridDim.x} * blockDim.x;
  size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x;
  for (; i + (kInFlight - 1) * step < count; i += kInFlight * step) {
    uint4 v[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      v[j] = __ldcs(data + i + j * step);
    }
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
  }
  if (sum == 0x12345678U) {
    *sink = sum;
  }
}

__global__ void CopyKernel(const uint4* from, uint4* to, size_t count) {
  constexpr int kInFlight = 4;
  const size_t step = size_t{gridDim.x} * blockDim.x;
  size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x;
  for (; i + (kInFlight - 1) * step < count; i += kInFlight * step) {
    uint4 v[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      v[j] = __ldcs(from + i + j * step);
    }
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      __stcs(to + i + j * step, v[j]);
    }
  }
  for (; i < count; i += step) {
    to[i] = from[i];
  }
}

}  // namespace

cudaError_t LaunchRandomRecords(const DeviceNestedMatrix& matrix, uint32_t seed, cudaStream_t stream) {
  auto* data = const_cast<uint8_t*>(matrix.data);
  HashKernel<<<kGridBlocks, kThreads, 0, stream>>>(reinterpret_cast<uint32_t*>(data),
                                                   static_cast<size_t>(matrix.bytes()) / sizeof(uint32_t), seed);
  ScalesKernel<<<static_cast<unsigned>(matrix.tiles()), kThreads, 0, stream>>>(
      data, matrix.tile_bytes(), matrix.record_bytes(), static_cast<int>(matrix.groups()),
      kRecordBlocks / static_cast<int>(matrix.group_blocks()));
  return cudaGetLastError();
}

cudaError_t LaunchFill(float* data, size_t count, float value, cudaStream_t stream) {
  FillKernel<<<kGridBlocks, kThreads, 0, stream>>>(data, count, value);
  return cudaGetLastError();
}

cudaError_t LaunchRandomBf16(uint16_t* data, size_t count, uint32_t seed, cudaStream_t stream) {
  Bf16Kernel<<<kGridBlocks, kThreads, 0, stream>>>(data, count, seed);
  return cudaGetLastError();
}

cudaError_t LaunchReadOnly(const void* data, size_t bytes, int blocks, uint32_t* sink, cudaStream_t stream) {
  ReadKernel<<<static_cast<unsigned>(blocks), 2 * kThreads, 0, stream>>>(static_cast<const uint4*>(data),
                                                                         bytes / sizeof(uint4), sink);
  return cudaGetLastError();
}

cudaError_t LaunchCopy(const void* from, void* to, size_t bytes, int blocks, cudaStream_t stream) {
  CopyKernel<<<static_cast<unsigned>(blocks), 2 * kThreads, 0, stream>>>(
      static_cast<const uint4*>(from), static_cast<uint4*>(to), bytes / sizeof(uint4));
  return cudaGetLastError();
}

}  // namespace flexquant::cuda
