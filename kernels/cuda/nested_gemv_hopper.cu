#include <array>
#include <atomic>

#include "kernels/cuda/nested_kernel.cuh"
#include "kernels/cuda/nested_launch.h"

namespace flexquant::cuda {
namespace {

int QueryClusters(int parts) {
  const auto* kernel = reinterpret_cast<const void*>(&NestedGemvKernel<GemvShape<false, 1, 2>, true>);
  LaunchConfig config(dim3(static_cast<unsigned>(parts)), kGemvThreads, kHopperShared, nullptr);
  config.SetCluster(parts);
  int clusters = 0;
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kHopperShared);
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config.get());
  }
  return error == cudaSuccess ? clusters : 0;
}

}  // namespace

int HopperClusters(int parts) {
  static std::array<std::array<std::atomic<int>, kGemvWarps + 1>, kMaxDevices> known;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) {
    return 0;
  }
  if (device >= kMaxDevices) {
    return QueryClusters(parts);
  }
  std::atomic<int>& clusters = known[static_cast<size_t>(device)][static_cast<size_t>(parts)];
  if (clusters == 0) {
    clusters = QueryClusters(parts);
  }
  return clusters;
}

cudaError_t LaunchHopperGemv(const GemvArgs& args, const cudaLaunchConfig_t& config) {
  return LaunchColumns<true>(args, config);
}

}  // namespace flexquant::cuda
