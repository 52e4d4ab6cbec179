#ifndef FLEXQUANT_TESTS_KERNELS_CUDA_BENCH_MODEL_CUH_
#define FLEXQUANT_TESTS_KERNELS_CUDA_BENCH_MODEL_CUH_

// The linears of Llama-3.1-8B over random records, for bench_linears.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "kernels/cuda/bench_support.h"
#include "kernels/cuda/nested_gemv.h"

namespace flexquant {

using cuda::DeviceNestedMatrix;

inline constexpr int kLayers = 32;
inline constexpr int kHidden = 4096;
inline constexpr int kQkv = 6144;
inline constexpr int kInner = 14336;
inline constexpr int kVocab = 128256;
inline constexpr int kGroups = 4 * kLayers + 1;
inline constexpr int kMaxRows = 64;

#define CHECK(call)                                                                       \
  do {                                                                                    \
    const cudaError_t error = (call);                                                     \
    if (error != cudaSuccess) {                                                           \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(error)); \
      std::exit(1);                                                                       \
    }                                                                                     \
  } while (false)

struct Model {
  uint8_t* data = nullptr;
  size_t bytes = 0;
  std::vector<DeviceNestedMatrix> matrices;  // by layer group
  float* hidden = nullptr;
  float* qkv = nullptr;
  float* inner = nullptr;
  float* logits = nullptr;
  float* norm = nullptr;
  uint8_t* widths = nullptr;  // [kGroups][kMaxRows]
  uint8_t* host_widths = nullptr;
  uint8_t* workspace = nullptr;
  cudaStream_t stream = nullptr;
};

inline DeviceNestedMatrix Shape(int group) {
  switch (group == kGroups - 1 ? 4 : group % 4) {
    case 0:
      return {nullptr, kQkv, kHidden, 64, false};
    case 1:
      return {nullptr, kHidden, kHidden, 64, false};
    case 2:
      return {nullptr, 2 * kInner, kHidden, 64, true};
    case 3:
      return {nullptr, kHidden, kInner, 64, false};
    default:
      return {nullptr, kVocab, kHidden, 64, false};
  }
}

inline Model MakeModel() {
  Model model;
  size_t workspace = 0;
  for (int group = 0; group < kGroups; ++group) {
    model.matrices.push_back(Shape(group));
    model.bytes += static_cast<size_t>(model.matrices.back().bytes());
    workspace = std::max(workspace, cuda::GemvWorkspaceBytes(model.matrices.back(), kMaxRows, true));
  }
  CHECK(cudaMalloc(&model.data, model.bytes));
  size_t at = 0;
  for (DeviceNestedMatrix& matrix : model.matrices) {
    matrix.data = model.data + at;
    CHECK(cuda::LaunchRandomRecords(matrix, static_cast<uint32_t>(&matrix - model.matrices.data()), nullptr));
    at += static_cast<size_t>(matrix.bytes());
  }
  CHECK(cudaMalloc(&model.hidden, sizeof(float) * kMaxRows * kHidden));
  CHECK(cudaMalloc(&model.qkv, sizeof(float) * kMaxRows * kQkv));
  CHECK(cudaMalloc(&model.inner, sizeof(float) * kMaxRows * kInner));
  CHECK(cudaMalloc(&model.logits, sizeof(float) * kMaxRows * size_t{kVocab}));
  CHECK(cudaMalloc(&model.norm, sizeof(float) * kInner));
  CHECK(cudaMalloc(&model.widths, kGroups * kMaxRows));
  CHECK(cudaMallocHost(&model.host_widths, kGroups * kMaxRows));
  CHECK(cudaMalloc(&model.workspace, workspace));
  CHECK(cudaMemset(model.workspace, 0, cuda::kGemvCounterBytes));
  CHECK(cudaStreamCreateWithFlags(&model.stream, cudaStreamNonBlocking));
  std::vector<float> x(static_cast<size_t>(kMaxRows) * kHidden);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (float& value : x) {
    value = normal(random);
  }
  CHECK(cudaMemcpy(model.hidden, x.data(), x.size() * sizeof(float), cudaMemcpyHostToDevice));
  std::vector<float> ones(kInner, 1.0F);
  CHECK(cudaMemcpy(model.norm, ones.data(), ones.size() * sizeof(float), cudaMemcpyHostToDevice));
  CHECK(cudaMemset(model.qkv, 0, sizeof(float) * kMaxRows * kQkv));
  CHECK(cudaMemset(model.inner, 0, sizeof(float) * kMaxRows * kInner));
  CHECK(cudaDeviceSynchronize());
  return model;
}

}  // namespace flexquant

#endif  // FLEXQUANT_TESTS_KERNELS_CUDA_BENCH_MODEL_CUH_
