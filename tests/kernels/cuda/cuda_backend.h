#ifndef FLEXQUANT_TESTS_KERNELS_CUDA_CUDA_BACKEND_H_
#define FLEXQUANT_TESTS_KERNELS_CUDA_CUDA_BACKEND_H_

#include <memory>

#include "tests/kernels/backend.h"

namespace flexquant::testing {

// The current GPU. `portable`: products by the kernels for sm_80 and up even where Hopper's would run.
std::unique_ptr<Backend> MakeCudaBackend(bool portable = false);

}  // namespace flexquant::testing

#endif  // FLEXQUANT_TESTS_KERNELS_CUDA_CUDA_BACKEND_H_
