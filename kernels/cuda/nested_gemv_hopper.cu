#include "kernels/cuda/nested_kernel.cuh"

namespace flexquant::cuda {

cudaError_t LaunchHopperGemv(const GemvArgs& args, const cudaLaunchConfig_t& config) {
  return LaunchColumns<true>(args, config);
}

}  // namespace flexquant::cuda
