#include "tests/kernels/test_matrix.h"

#include <cmath>

#include "kernels/reference/reference.h"

namespace flexquant::testing {
namespace {

std::vector<uint8_t> RandomBytes(int64_t n, std::mt19937& random) {
  std::vector<uint8_t> bytes(static_cast<size_t>(n));
  for (uint8_t& byte : bytes) {
    byte = static_cast<uint8_t>(random());
  }
  return bytes;
}

}  // namespace

RandomMatrix::RandomMatrix(int64_t rows, int64_t cols, int64_t group_size, uint32_t seed, bool exact) {
  std::mt19937 random(seed);
  view_.rows = rows;
  view_.cols = cols;
  view_.group_size = group_size;
  const int64_t plane = view_.tiles() * view_.units() * kPlaneWordBytes;
  base3_ = RandomBytes(3 * plane, random);
  bit4_ = RandomBytes(plane, random);
  bit5_ = RandomBytes(plane, random);
  bit6_ = RandomBytes(plane, random);
  bits78_ = RandomBytes(2 * plane, random);
  scales_.resize(static_cast<size_t>(view_.tiles() * view_.groups() * 2 * kTileRows));
  std::uniform_real_distribution<double> uniform(0.5, 1.5);
  for (size_t i = 0; i < scales_.size(); ++i) {
    const bool is_zero = i / kTileRows % 2 == 1;
    double value = is_zero ? 127.5 * uniform(random) : 0.01 * uniform(random);
    if (exact) {
      value =
          is_zero ? 120.0 + static_cast<double>(random() % 16) * 0.5 : std::ldexp(1.0, -static_cast<int>(random() % 4));
    }
    scales_[i] = reference::DoubleToHalf(value);
  }
  view_.base3 = base3_.data();
  view_.bit4 = bit4_.data();
  view_.bit5 = bit5_.data();
  view_.bit6 = bit6_.data();
  view_.bits78 = bits78_.data();
  view_.scales = scales_.data();
}

IdentityMatrix::IdentityMatrix(int64_t size, int64_t group_size) {
  view_.rows = view_.cols = size;
  view_.group_size = group_size;
  const int64_t units = view_.tiles() * view_.units();
  zeros_.assign(static_cast<size_t>(3 * units * kPlaneWordBytes), 0);
  bits78_.assign(static_cast<size_t>(2 * units * kPlaneWordBytes), 0);
  for (int64_t i = 0; i < size; ++i) {
    // Register r of the unit holds columns 4 r .. 4 r + 3.
    const int64_t unit = i / kTileRows * view_.units() + i / kUnitCols;
    const int64_t r = i % kUnitCols / 4;
    const int64_t byte = (2 * unit + r / 4) * kPlaneWordBytes + 4 * (i % kTileRows) + i % 4;
    bits78_[static_cast<size_t>(byte)] = static_cast<uint8_t>(1 << (2 * (r % 4)));
  }
  scales_.assign(static_cast<size_t>(view_.tiles() * view_.groups() * 2 * kTileRows), 0);
  for (size_t i = 0; i < scales_.size(); ++i) {
    scales_[i] = i / kTileRows % 2 == 0 ? 0x3C00 : 0;
  }
  view_.base3 = view_.bit4 = view_.bit5 = view_.bit6 = zeros_.data();
  view_.bits78 = bits78_.data();
  view_.scales = scales_.data();
}

std::vector<float> RandomFloats(int64_t n, uint32_t seed, float deviation) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) {
    value = normal(random);
  }
  return values;
}

}  // namespace flexquant::testing
