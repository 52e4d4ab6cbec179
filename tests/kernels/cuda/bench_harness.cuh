#ifndef FLEXQUANT_TESTS_KERNELS_CUDA_BENCH_HARNESS_CUH_
#define FLEXQUANT_TESTS_KERNELS_CUDA_BENCH_HARNESS_CUH_

// Device memory with random contents, times of captured graphs, and the read-only bandwidth they are compared with.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "kernels/cuda/bench_support.h"

namespace flexquant::cuda {

#define CHECK_CUDA(call)                                                                                  \
  do {                                                                                                    \
    const auto check_status = (call);                                                                     \
    if (static_cast<int>(check_status) != 0) {                                                            \
      std::fprintf(stderr, "%s:%d: %s: %d\n", __FILE__, __LINE__, #call, static_cast<int>(check_status)); \
      std::exit(1);                                                                                       \
    }                                                                                                     \
  } while (false)

template <class T>
T* Allocate(size_t count) {
  T* data = nullptr;
  CHECK_CUDA(cudaMalloc(&data, count * sizeof(T)));
  CHECK_CUDA(cudaMemset(data, 0, count * sizeof(T)));
  return data;
}

template <class T>
T* Upload(const std::vector<T>& values) {
  T* data = Allocate<T>(values.size());
  CHECK_CUDA(cudaMemcpy(data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return data;
}

__device__ inline uint32_t Hash(uint64_t i) {
  uint64_t x = (i + 1) * 0x9E3779B97F4A7C15ULL;
  x ^= x >> 29;
  x *= 0xBF58476D1CE4E5B9ULL;
  return static_cast<uint32_t>(x >> 32);
}

// About normal, from four uniform numbers.
__device__ inline float Random(uint64_t i) {
  const uint32_t h = Hash(i);
  const float sum = static_cast<float>((h & 255) + (h >> 8 & 255) + (h >> 16 & 255) + (h >> 24));
  return (sum - 510.0F) / 147.8F;
}

template <class T>
__global__ void FillKernel(T* data, size_t count, float deviation) {
  for (size_t i = blockIdx.x * size_t{256} + threadIdx.x; i < count; i += gridDim.x * size_t{256}) {
    data[i] = static_cast<T>(Random(i) * deviation);
  }
}

template <class T>
T* Randoms(size_t count, float deviation = 1.0F) {
  T* data = Allocate<T>(count);
  FillKernel<<<1024, 256>>>(data, count, deviation);
  CHECK_CUDA(cudaDeviceSynchronize());
  return data;
}

inline cudaGraphExec_t Capture(cudaStream_t stream, const std::function<void(cudaStream_t)>& body) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  body(stream);
  CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
  CHECK_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  CHECK_CUDA(cudaGraphDestroy(graph));
  return exec;
}

// Median microseconds of one `step`, from `repeats` measurements of `steps` steps each after three that warm up.
inline double Median(cudaStream_t stream, int steps, int repeats, const std::function<void()>& step) {
  cudaEvent_t begin;
  cudaEvent_t end;
  CHECK_CUDA(cudaEventCreate(&begin));
  CHECK_CUDA(cudaEventCreate(&end));
  std::vector<double> times;
  for (int i = 0; i < repeats + 3; ++i) {
    CHECK_CUDA(cudaEventRecord(begin, stream));
    for (int k = 0; k < steps; ++k) {
      step();
    }
    CHECK_CUDA(cudaEventRecord(end, stream));
    CHECK_CUDA(cudaEventSynchronize(end));
    float ms = 0;
    CHECK_CUDA(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 3) {
      times.push_back(static_cast<double>(ms) * 1e3 / steps);
    }
  }
  CHECK_CUDA(cudaEventDestroy(begin));
  CHECK_CUDA(cudaEventDestroy(end));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// Median microseconds of one replay of what `body` launches, divided by `parts`.
inline double Time(const std::function<void(cudaStream_t)>& body, int parts, int repeats = 15) {
  cudaStream_t stream;
  CHECK_CUDA(cudaStreamCreate(&stream));
  cudaGraphExec_t exec = Capture(stream, body);
  const double us = Median(stream, 1, repeats, [&] { CHECK_CUDA(cudaGraphLaunch(exec, stream)); });
  CHECK_CUDA(cudaGraphExecDestroy(exec));
  CHECK_CUDA(cudaStreamDestroy(stream));
  return us / parts;
}

// TB/s of a kernel that only reads.
inline double ReadBandwidth(const void* memory, size_t bytes) {
  auto* out = Allocate<uint32_t>(1);
  double best = 0;
  for (const int blocks : {264, 528, 1056, 2112, 4224}) {
    const double us = Time([&](cudaStream_t s) { CHECK_CUDA(LaunchReadOnly(memory, bytes, blocks, out, s)); }, 1);
    best = std::max(best, static_cast<double>(bytes) / us * 1e-6);
  }
  CHECK_CUDA(cudaFree(out));
  return best;
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_TESTS_KERNELS_CUDA_BENCH_HARNESS_CUH_
