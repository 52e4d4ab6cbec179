#ifndef FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_H_
#define FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_H_

// y = x W^T for many tokens at once without W ever being in memory as fp16: a kernel for Hopper dequantises records
// into registers, in the order in which the tensor cores take them, and multiplies at once (fp16 in, fp32 sums). A
// weight has one rounding to fp16, as in kernels/cuda/prefill_gemm.h.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/nested_gemv.h"
#include "kernels/cuda/nested_layout.h"

namespace flexquant::cuda {

// How the work is divided; 0: as measured best. Sums are in the order of `splits`, otherwise results do not depend on
// it.
struct FusedTuning {
  int tokens = 0;  // of a thread block: 64, 128 or 256
  int splits = 0;  // thread blocks that share a product along the columns: 1, 2, 3, 4, 6 or 8
  int share = 0;   // thread blocks that fetch their common activations together: 1, 2 or 4; splits * share at most 8
};

// All pointers are device memory.
struct FusedGemmParams {
  DeviceNestedMatrix matrix;                     // [rows, cols]
  int bits = 8;                                  // 3, 4, 5, 6 or 8
  const uint16_t* x = nullptr;                   // fp16 in the order of kernels/cuda/activation_blocks.h, with
                                                 // ActivationBlockRows(num_rows) rows a block; 128-byte aligned
  const float* row_scale = nullptr;              // [num_rows]: product is multiplied by it; null: 1
  int num_rows = 0;                              // tokens
  GemvEpilogue epilogue = GemvEpilogue::kStore;  // kSiluMul if and only if the matrix is paired
  const float* bias = nullptr;                   // [matrix.rows], or null
  float* y = nullptr;                            // [num_rows, rows (kSiluMul: rows / 2)], row stride y_stride
  int64_t y_stride = 0;
  FusedTuning tuning;
};

// Whether the current device can run it: the one with compute capability 9.0.
bool FusedGemmSupported();

// cudaErrorInvalidValue if something of the parameters is not as said, cudaErrorNotSupported on another device. With
// `programmatic` the matrix is read before the kernel in front has ended, all else after it.
cudaError_t LaunchFusedGemm(const FusedGemmParams& params, cudaStream_t stream, bool programmatic = false);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_PREFILL_FUSED_H_
