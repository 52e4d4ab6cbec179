#ifndef FLEXQUANT_TESTS_KERNELS_CUDA_DEVICE_MATRIX_H_
#define FLEXQUANT_TESTS_KERNELS_CUDA_DEVICE_MATRIX_H_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/nested_matrix.h"
#include "kernels/cuda/nested_layout.h"
#include "kernels/cuda/repack.h"

namespace flexquant::testing {

inline void Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
  }
}

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size) : size_(size) {
    Check(cudaMalloc(&data_, std::max<size_t>(1, size) * sizeof(T)), "cudaMalloc");
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { Set(values); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  T* get() const { return static_cast<T*>(data_); }
  size_t size() const { return size_; }
  void Set(const std::vector<T>& values) {
    Check(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "to device");
  }
  std::vector<T> Get() const {
    std::vector<T> values(size_);
    Check(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "from device");
    return values;
  }

 private:
  void* data_ = nullptr;
  size_t size_;
};

// A matrix of the store on the device, repacked in ranges of `tiles_a_range` tiles, the last range first.
class DeviceMatrix {
 public:
  explicit DeviceMatrix(const NestedMatrix& w, bool paired = false, int64_t tiles_a_range = 1 << 20)
      : view_{nullptr, w.rows, w.cols, w.group_size, paired}, data_(static_cast<size_t>(view_.bytes())) {
    view_.data = data_.get();
    Check(cuda::LaunchRepackClear(view_, nullptr), "clear");
    for (int64_t begin = (w.tiles() - 1) / tiles_a_range * tiles_a_range; begin >= 0; begin -= tiles_a_range) {
      Repack(w, begin, std::min(tiles_a_range, w.tiles() - begin));
    }
  }

  const cuda::DeviceNestedMatrix& view() const { return view_; }
  std::vector<uint8_t> Bytes() const { return data_.Get(); }

 private:
  void Repack(const NestedMatrix& w, int64_t first, int64_t count) {
    const int64_t word = w.units() * kPlaneWordBytes;  // of a tile
    const auto range = [&](const uint8_t* plane, int64_t bytes) {
      return std::vector<uint8_t>(plane + first * bytes, plane + (first + count) * bytes);
    };
    const DeviceArray<uint8_t> base3(range(w.base3, 3 * word));
    const DeviceArray<uint8_t> bit4(range(w.bit4, word));
    const DeviceArray<uint8_t> bit5(range(w.bit5, word));
    const DeviceArray<uint8_t> bit6(range(w.bit6, word));
    const DeviceArray<uint8_t> bits78(range(w.bits78, 2 * word));
    const int64_t pairs = w.groups() * 2 * kTileRows;
    const DeviceArray<uint16_t> scales(
        std::vector<uint16_t>(w.scales + first * pairs, w.scales + (first + count) * pairs));
    const cuda::StagedPlanes planes{first,      count,      base3.get(),  bit4.get(),
                                    bit5.get(), bit6.get(), bits78.get(), scales.get()};
    Check(cuda::LaunchRepack(planes, view_, nullptr), "repack");
    Check(cudaDeviceSynchronize(), "repack");
  }

  cuda::DeviceNestedMatrix view_;
  DeviceArray<uint8_t> data_;
};

}  // namespace flexquant::testing

#endif  // FLEXQUANT_TESTS_KERNELS_CUDA_DEVICE_MATRIX_H_
