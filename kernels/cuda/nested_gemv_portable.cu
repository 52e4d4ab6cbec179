#include "kernels/cuda/nested_kernel.cuh"

namespace flexquant::cuda {

cudaError_t LaunchPortableGemv(const GemvArgs& args, const cudaLaunchConfig_t& config) {
  return LaunchColumns<false>(args, config);
}

}  // namespace flexquant::cuda
