#ifndef FLEXQUANT_TESTS_KERNELS_CUDA_DEVICE_MATRIX_H_
#define FLEXQUANT_TESTS_KERNELS_CUDA_DEVICE_MATRIX_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/nested_matrix.h"
#include "kernels/cuda/nested_layout.h"
#include "kernels/cuda/repack.h"
#include "tests/kernels/cuda/device_buffer.h"

namespace flexquant::testing {

// Tiles [first, first + count) of a matrix on the device, in the store's layout.
class DevicePlanes {
 public:
  DevicePlanes(const NestedMatrix& w, int64_t first, int64_t count)
      : first_(first),
        count_(count),
        base3_(Range(w, w.base3, 3)),
        bit4_(Range(w, w.bit4, 1)),
        bit5_(Range(w, w.bit5, 1)),
        bit6_(Range(w, w.bit6, 1)),
        bits78_(Range(w, w.bits78, 2)),
        scales_(std::vector<uint16_t>(w.scales + first * w.groups() * 2 * kTileRows,
                                      w.scales + (first + count) * w.groups() * 2 * kTileRows)) {}

  cuda::StagedPlanes staged() const {
    return {first_, count_, base3_.data(), bit4_.data(), bit5_.data(), bit6_.data(), bits78_.data(), scales_.data()};
  }
  // `w` with its planes here; all tiles must be.
  NestedMatrix view(NestedMatrix w) const {
    w.base3 = base3_.data();
    w.bit4 = bit4_.data();
    w.bit5 = bit5_.data();
    w.bit6 = bit6_.data();
    w.bits78 = bits78_.data();
    w.scales = scales_.data();
    return w;
  }

 private:
  std::vector<uint8_t> Range(const NestedMatrix& w, const uint8_t* plane, int64_t words) const {
    const int64_t tile_bytes = w.units() * words * kPlaneWordBytes;
    return {plane + first_ * tile_bytes, plane + (first_ + count_) * tile_bytes};
  }

  int64_t first_;
  int64_t count_;
  DeviceBuffer<uint8_t> base3_, bit4_, bit5_, bit6_, bits78_;
  DeviceBuffer<uint16_t> scales_;
};

// A matrix in the device layout, repacked in ranges of `tiles_a_range` tiles, the last range first.
class DeviceMatrix {
 public:
  explicit DeviceMatrix(const NestedMatrix& w, bool paired = false, int64_t tiles_a_range = 1 << 20)
      : view_{nullptr, w.rows, w.cols, w.group_size, paired}, data_(static_cast<size_t>(view_.bytes())) {
    view_.data = data_.data();
    CheckCuda(cuda::LaunchRepackClear(view_, nullptr), "clear");
    for (int64_t begin = (w.tiles() - 1) / tiles_a_range * tiles_a_range; begin >= 0; begin -= tiles_a_range) {
      const DevicePlanes planes(w, begin, std::min(tiles_a_range, w.tiles() - begin));
      CheckCuda(cuda::LaunchRepack(planes.staged(), view_, nullptr), "repack");
      CheckCuda(cudaDeviceSynchronize(), "repack");
    }
  }

  const cuda::DeviceNestedMatrix& view() const { return view_; }
  std::vector<uint8_t> Bytes() const { return data_.Download(); }

 private:
  cuda::DeviceNestedMatrix view_;
  DeviceBuffer<uint8_t> data_;
};

}  // namespace flexquant::testing

#endif  // FLEXQUANT_TESTS_KERNELS_CUDA_DEVICE_MATRIX_H_
