#ifndef FLEXQUANT_TESTS_KERNELS_CUDA_DEVICE_BUFFER_H_
#define FLEXQUANT_TESTS_KERNELS_CUDA_DEVICE_BUFFER_H_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

namespace flexquant::testing {

// Ends the test.
inline void CheckCuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
  }
}

// Device memory of a test, zero at first; dies with it.
template <class T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t size) : size_(size) {
    CheckCuda(cudaMalloc(&data_, std::max<size_t>(1, size) * sizeof(T)), "cudaMalloc");
    Fill(0);
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(values.size()) { Upload(values); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { cudaFree(data_); }

  T* data() const { return data_; }
  size_t size() const { return size_; }
  // Both wait: streams that do not follow the default one may read it next.
  void Upload(const std::vector<T>& values) {
    CheckCuda(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "to the device");
    CheckCuda(cudaStreamSynchronize(nullptr), "to the device");
  }
  void Fill(int byte) {
    CheckCuda(cudaMemset(data_, byte, size_ * sizeof(T)), "cudaMemset");
    CheckCuda(cudaStreamSynchronize(nullptr), "cudaMemset");
  }
  // Waits for the whole device first.
  std::vector<T> Download() const {
    std::vector<T> values(size_);
    CheckCuda(cudaDeviceSynchronize(), "waiting for the device");
    CheckCuda(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "from the device");
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

}  // namespace flexquant::testing

#endif  // FLEXQUANT_TESTS_KERNELS_CUDA_DEVICE_BUFFER_H_
