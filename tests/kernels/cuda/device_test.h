#ifndef FLEXQUANT_TESTS_KERNELS_CUDA_DEVICE_TEST_H_
#define FLEXQUANT_TESTS_KERNELS_CUDA_DEVICE_TEST_H_

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <string>

namespace flexquant::testing {

// Why this machine has no GPU that our kernels run on; empty if it has one.
inline std::string MissingDevice() {
  int devices = 0;
  cudaDeviceProp properties{};
  if (const cudaError_t error = cudaGetDeviceCount(&devices); error != cudaSuccess) {
    return std::string("no CUDA device: ") + cudaGetErrorString(error);
  }
  if (devices == 0 || cudaGetDeviceProperties(&properties, 0) != cudaSuccess) {
    return "no CUDA device";
  }
  return properties.major < 8 ? "needs compute capability 8.0" : "";
}

// Skips the test, saying why, where there is no device.
class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string missing = MissingDevice(); !missing.empty()) {
      GTEST_SKIP() << missing;
    }
  }
};

}  // namespace flexquant::testing

#endif  // FLEXQUANT_TESTS_KERNELS_CUDA_DEVICE_TEST_H_
