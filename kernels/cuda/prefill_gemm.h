#ifndef FLEXQUANT_KERNELS_CUDA_PREFILL_GEMM_H_
#define FLEXQUANT_KERNELS_CUDA_PREFILL_GEMM_H_

// y = x W^T for many tokens at once: tiles of W are dequantised to fp16 into a bounded workspace and multiplied by
// cuBLAS (fp16 in, fp32 sums and output), as many tiles at a time as the workspace holds. fp16 keeps 11 bits of a
// weight, whose code has 8; a row_scale a token (kernels/cuda/elementwise.h) keeps activations in its range.

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/nested_layout.h"

namespace flexquant::cuda {

// All pointers are device memory.
struct PrefillGemmParams {
  DeviceNestedMatrix matrix;  // [rows, cols]
  int bits = 8;
  const uint16_t* x = nullptr;  // [num_rows, x_stride] fp16
  int64_t x_stride = 0;         // at least cols; a multiple of 8 is fast
  int num_rows = 0;             // on the host: cuBLAS chooses by it
  float* y = nullptr;           // [num_rows, y_stride]: the matrix's rows in the store's order (gate then up)
  int64_t y_stride = 0;
  bool accumulate = false;     // y += instead of y =
  float weight_factor = 1.0F;  // power of two on the fp16 weights and taken out again: for matrices of tiny weights
  void* workspace = nullptr;   // 16-byte aligned; used in the stream's order
  size_t workspace_bytes = 0;  // at least PrefillGemmMinWorkspaceBytes(matrix); 32 to 64 MiB is fast
};

size_t PrefillGemmMinWorkspaceBytes(const DeviceNestedMatrix& matrix);

// Errors of launches and of cuBLAS, as CUDA's. The handle's stream must be `stream`; for capture in a graph give the
// handle a workspace of its own (cublasSetWorkspace).
cudaError_t LaunchPrefillGemm(const PrefillGemmParams& params, cublasHandle_t handle, cudaStream_t stream);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_PREFILL_GEMM_H_
