#include "kernels/cuda/prefill_fused_kernel.cuh"

namespace flexquant::cuda::fused {

template cudaError_t LaunchInstance<128>(const FusedArgs&, int, cudaStream_t, bool);

}  // namespace flexquant::cuda::fused
