#ifndef FLEXQUANT_TESTS_KERNELS_CUDA_BENCH_MODEL_CUH_
#define FLEXQUANT_TESTS_KERNELS_CUDA_BENCH_MODEL_CUH_

// The linears of Llama-3.1-8B over random records, for bench_linears.

#include <cuda_runtime.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda/bench_support.h"
#include "kernels/cuda/nested_gemv.h"
#include "tests/kernels/cuda/bench_harness.cuh"

namespace flexquant::cuda {

inline constexpr int kLayers = 32;
inline constexpr int kHidden = 4096;
inline constexpr int kQkv = 6144;
inline constexpr int kInner = 14336;
inline constexpr int kVocab = 128256;
inline constexpr int kGroups = 4 * kLayers + 1;
inline constexpr int kMaxRows = 64;

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
    workspace = std::max(workspace, GemvWorkspaceBytes(model.matrices.back(), kMaxRows, true));
  }
  model.data = Allocate<uint8_t>(model.bytes);
  size_t at = 0;
  for (DeviceNestedMatrix& matrix : model.matrices) {
    matrix.data = model.data + at;
    CHECK_CUDA(LaunchRandomRecords(matrix, static_cast<uint32_t>(&matrix - model.matrices.data()), nullptr));
    at += static_cast<size_t>(matrix.bytes());
  }
  constexpr size_t kRows = kMaxRows;
  model.hidden = Randoms<float>(kRows * kHidden);
  model.qkv = Allocate<float>(kRows * kQkv);
  model.inner = Allocate<float>(kRows * kInner);
  model.logits = Allocate<float>(kRows * kVocab);
  model.norm = Upload(std::vector<float>(kInner, 1.0F));
  model.widths = Allocate<uint8_t>(kGroups * kRows);
  CHECK_CUDA(cudaMallocHost(&model.host_widths, kGroups * kRows));
  model.workspace = Allocate<uint8_t>(workspace);
  CHECK_CUDA(cudaStreamCreateWithFlags(&model.stream, cudaStreamNonBlocking));
  CHECK_CUDA(cudaDeviceSynchronize());
  return model;
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_TESTS_KERNELS_CUDA_BENCH_MODEL_CUH_
