#include "kernels/cuda/prefill_gemm.h"

#include <algorithm>

#include "kernels/cuda/dequantize.h"

namespace flexquant::cuda {
namespace {

// Rows of the workspace start 16-byte aligned.
int64_t Stride(const DeviceNestedMatrix& matrix) { return CeilDiv(matrix.cols, 8) * 8; }

size_t TileBytes(const DeviceNestedMatrix& matrix) {
  return static_cast<size_t>(kTileRows * Stride(matrix)) * sizeof(uint16_t);
}

cudaError_t ToCudaError(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return cudaSuccess;
    case CUBLAS_STATUS_ALLOC_FAILED:
      return cudaErrorMemoryAllocation;
    case CUBLAS_STATUS_INVALID_VALUE:
      return cudaErrorInvalidValue;
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return cudaErrorNotSupported;
    default:
      return cudaErrorUnknown;
  }
}

}  // namespace

size_t PrefillGemmMinWorkspaceBytes(const DeviceNestedMatrix& matrix) { return TileBytes(matrix); }

cudaError_t LaunchPrefillGemm(const PrefillGemmParams& params, cublasHandle_t handle, cudaStream_t stream) {
  const DeviceNestedMatrix& w = params.matrix;
  const auto tiles_at_once = static_cast<int64_t>(params.workspace_bytes / TileBytes(w));
  if (tiles_at_once == 0) {
    return cudaErrorInvalidValue;
  }
  if (params.num_rows == 0) {
    return cudaSuccess;
  }
  const float alpha = 1.0F / params.weight_factor;
  const float beta = params.accumulate ? 1.0F : 0.0F;
  // A paired matrix's tile has eight rows of each half; the halves are two products of one batch.
  const int64_t halves = w.paired ? 2 : 1;
  const int64_t half_rows = w.rows / halves;
  const int64_t half_tile_rows = kTileRows / halves;
  // Equal parts: a small last one would leave the device idle.
  const int64_t parts = CeilDiv(w.tiles(), tiles_at_once);
  const int64_t step = CeilDiv(w.tiles(), parts);
  for (int64_t tile = 0; tile < w.tiles(); tile += step) {
    DequantizeParams dequantize;
    dequantize.matrix = w;
    dequantize.tile_begin = tile;
    dequantize.tile_end = std::min(w.tiles(), tile + step);
    dequantize.bits = params.bits;
    dequantize.factor = params.weight_factor;
    dequantize.out = static_cast<uint16_t*>(params.workspace);
    dequantize.stride = Stride(w);
    dequantize.paired_offset = step * half_tile_rows;
    const cudaError_t status = LaunchDequantize(dequantize, stream);
    if (status != cudaSuccess) {
      return status;
    }
    const int64_t row = tile * half_tile_rows;
    const int64_t count = std::min(half_rows, dequantize.tile_end * half_tile_rows) - row;
    const cublasStatus_t product = cublasGemmStridedBatchedEx(
        handle, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(count), params.num_rows, static_cast<int>(w.cols), &alpha,
        params.workspace, CUDA_R_16F, static_cast<int>(Stride(w)), dequantize.paired_offset * Stride(w), params.x,
        CUDA_R_16F, static_cast<int>(params.x_stride), 0, &beta, params.y + row, CUDA_R_32F,
        static_cast<int>(params.y_stride), half_rows, static_cast<int>(halves), CUBLAS_COMPUTE_32F,
        CUBLAS_GEMM_DEFAULT);
    if (product != CUBLAS_STATUS_SUCCESS) {
      return ToCudaError(product);
    }
  }
  return cudaSuccess;
}

}  // namespace flexquant::cuda
