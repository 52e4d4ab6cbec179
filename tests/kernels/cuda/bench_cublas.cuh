#ifndef FLEXQUANT_TESTS_KERNELS_CUDA_BENCH_CUBLAS_CUH_
#define FLEXQUANT_TESTS_KERNELS_CUDA_BENCH_CUBLAS_CUH_

// cuBLAS beside the prefill products, in the same process.

#include <cublas_v2.h>

#include "tests/kernels/cuda/bench_harness.cuh"

namespace flexquant::cuda {

// A handle with a workspace of its own, so that it can be captured.
class Cublas {
 public:
  Cublas() : workspace_(Allocate<uint8_t>(kWorkspaceBytes)) { CHECK_CUDA(cublasCreate(&handle_)); }
  ~Cublas() {
    CHECK_CUDA(cublasDestroy(handle_));
    CHECK_CUDA(cudaFree(workspace_));
  }
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  cublasHandle_t On(cudaStream_t stream) const {
    CHECK_CUDA(cublasSetStream(handle_, stream));
    CHECK_CUDA(cublasSetWorkspace(handle_, workspace_, kWorkspaceBytes));
    return handle_;
  }

 private:
  static constexpr size_t kWorkspaceBytes = size_t{64} << 20;
  uint8_t* workspace_;
  cublasHandle_t handle_ = nullptr;
};

// y [m, rows] = x [m, cols] W^T with each of `copies` weights [rows, cols] that follow each other.
struct CublasProduct {
  int64_t rows;
  int64_t cols;
  int m;
  cudaDataType_t type;  // of weights and x, of 2 bytes
  const void* weights;
  int copies;
  const void* x;
  cudaDataType_t y_type;
  void* y;
};

// Microseconds of one product.
inline double TimeCublas(const Cublas& cublas, const CublasProduct& p) {
  const float one = 1;
  const float zero = 0;
  const auto n = static_cast<int>(p.rows);
  const auto k = static_cast<int>(p.cols);
  return Time(
      [&](cudaStream_t s) {
        cublasHandle_t handle = cublas.On(s);
        for (int i = 0; i < p.copies; ++i) {
          const auto* weights = static_cast<const uint8_t*>(p.weights) + 2 * i * p.rows * p.cols;
          CHECK_CUDA(cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, n, p.m, k, &one, weights, p.type, k, p.x, p.type, k,
                                  &zero, p.y, p.y_type, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
        }
      },
      p.copies);
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_TESTS_KERNELS_CUDA_BENCH_CUBLAS_CUH_
