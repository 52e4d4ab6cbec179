#ifndef FLEXQUANT_TESTS_KERNELS_CUDA_DEVICE_BUFFER_H_
#define FLEXQUANT_TESTS_KERNELS_CUDA_DEVICE_BUFFER_H_

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

namespace flexquant::cuda::testing {

// Device memory of a test; dies with it.
template <class T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t size) : size_(size) {
    EXPECT_EQ(cudaMalloc(&data_, (size > 0 ? size : 1) * sizeof(T)), cudaSuccess);
    Fill(0);
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(values.size()) { Upload(values); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { cudaFree(data_); }

  T* data() const { return data_; }
  size_t size() const { return size_; }
  void Upload(const std::vector<T>& values) {
    EXPECT_EQ(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  void Fill(int byte) { EXPECT_EQ(cudaMemset(data_, byte, size_ * sizeof(T)), cudaSuccess); }
  std::vector<T> Download() const {
    std::vector<T> values(size_);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

// Skips the test, saying why, where there is no device.
class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status != cudaSuccess || devices == 0) {
      GTEST_SKIP() << "no CUDA device: " << cudaGetErrorString(status);
    }
  }
};

}  // namespace flexquant::cuda::testing

#endif  // FLEXQUANT_TESTS_KERNELS_CUDA_DEVICE_BUFFER_H_
