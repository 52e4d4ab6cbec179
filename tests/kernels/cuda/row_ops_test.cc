// What the row kernels do beside tests/kernels/ops: halves with a scale a row, biases, the rotary table.

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/rope_kv.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/compare.h"
#include "tests/kernels/cuda/device_buffer.h"
#include "tests/kernels/cuda/device_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant::cuda {
namespace {

using testing::DeviceBuffer;
using testing::RandomFloats;

class RowOpsTest : public testing::DeviceTest {};

void ExpectNear(const float* got, const std::vector<double>& want, double relative) {
  const double largest = testing::LargestMagnitude(want);
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(got[i]), want[i], relative * (largest + std::fabs(want[i]))) << i;
  }
}

// Halves in rows of `cols` and a scale of each row.
struct HalfRows {
  HalfRows(int64_t rows, int64_t n) : cols(n), half(static_cast<size_t>(rows * n)), scale(static_cast<size_t>(rows)) {}

  RowOutput output() const { return {nullptr, half.data(), scale.data(), cols}; }
  // Halves times their row's scale.
  std::vector<float> Restore() const {
    const auto halves = half.Download();
    const auto scales = scale.Download();
    std::vector<float> values;
    for (size_t i = 0; i < halves.size(); ++i) {
      values.push_back(static_cast<float>(reference::HalfToDouble(halves[i])) * scales[i / static_cast<size_t>(cols)]);
    }
    return values;
  }

  int64_t cols;
  DeviceBuffer<uint16_t> half;
  DeviceBuffer<float> scale;
};

TEST_F(RowOpsTest, RmsNormToHalves) {
  for (const int64_t n : {1, 7, 64, 288, 4096, 11008}) {
    const auto x = RandomFloats(3 * n, 1, 3.0F);
    const auto weight = RandomFloats(n, 2);
    const DeviceBuffer<float> d_x(x);
    const DeviceBuffer<float> d_weight(weight);
    const HalfRows out(3, n);
    const DeviceBuffer<int32_t> num_rows(std::vector<int32_t>{2});
    const RmsNormParams p{d_x.data(), n, d_weight.data(), 1e-5F, n, out.output(), num_rows.data(), 3};
    ASSERT_EQ(LaunchRmsNorm(p, nullptr), cudaSuccess);
    const auto got = out.Restore();
    for (int row = 0; row < 2; ++row) {
      ExpectNear(got.data() + row * n, reference::RmsNorm(x.data() + row * n, weight.data(), n, 1e-5), 0x1p-11);
    }
    EXPECT_EQ(out.half.Download().back(), 0) << "rows past the count must be left alone";
  }
}

TEST_F(RowOpsTest, SiluMulWithBiasToFloatsAndHalves) {
  const int64_t n = 301;
  const auto x = RandomFloats(2 * 2 * n, 1, 4.0F);
  const auto bias = RandomFloats(2 * n, 2);
  const DeviceBuffer<float> d_x(x);
  const DeviceBuffer<float> d_bias(bias);
  const DeviceBuffer<float> y(static_cast<size_t>(2 * n));
  const HalfRows out(2, n);
  SiluMulParams p{d_x.data(), 2 * n, d_bias.data(), n, {y.data(), nullptr, nullptr, n}, nullptr, 2};
  ASSERT_EQ(LaunchSiluMul(p, nullptr), cudaSuccess);
  p.out = out.output();
  ASSERT_EQ(LaunchSiluMul(p, nullptr), cudaSuccess);
  const auto floats = y.Download();
  const auto halves = out.Restore();
  for (int64_t row = 0; row < 2; ++row) {
    std::vector<float> in(x.begin() + row * 2 * n, x.begin() + (row + 1) * 2 * n);
    for (size_t i = 0; i < in.size(); ++i) {
      in[i] += bias[i];
    }
    const auto want = reference::SiluMul(in.data(), in.data() + n, n);
    ExpectNear(floats.data() + row * n, want, 8 * testing::kEpsilon);
    ExpectNear(halves.data() + row * n, want, 0x1p-11);
  }
}

TEST_F(RowOpsTest, HalvesOfAnyRangeKeepElevenBits) {
  const int64_t n = 100;
  const std::vector<float> sizes = {1.0F, 1e-12F, 1e10F, 30000.0F, 40000.0F, 0.0F, 1e-30F};
  std::vector<float> x;
  for (size_t row = 0; row < sizes.size(); ++row) {
    for (const float value : RandomFloats(n, static_cast<uint32_t>(row))) {
      x.push_back(value * sizes[row]);
    }
  }
  const int rows = static_cast<int>(sizes.size());
  const DeviceBuffer<float> d_x(x);
  const HalfRows out(rows, n);
  const ConvertParams p{d_x.data(), n, n, out.output(), nullptr, rows};
  ASSERT_EQ(LaunchConvert(p, nullptr), cudaSuccess);
  const auto got = out.Restore();
  for (int row = 0; row < rows; ++row) {
    const std::vector<double> want(x.begin() + row * n, x.begin() + (row + 1) * n);
    ExpectNear(got.data() + row * n, want, 0x1p-11);
  }
  EXPECT_EQ(out.scale.Download()[0], 1.0F);
  // Dividing and multiplying by the scales gives the values back.
  ScaleRowsParams s{d_x.data(), n, out.scale.data(), /*inverse=*/true, n, nullptr, 5};
  ASSERT_EQ(LaunchScaleRows(s, nullptr), cudaSuccess);
  s.inverse = false;
  ASSERT_EQ(LaunchScaleRows(s, nullptr), cudaSuccess);
  EXPECT_EQ(d_x.Download(), x);
}

TEST_F(RowOpsTest, AddOfABiasAlone) {
  const int64_t n = 257;
  const auto x = RandomFloats(2 * n, 1);
  const auto y = RandomFloats(n, 2);
  const auto bias = RandomFloats(n, 3);
  const DeviceBuffer<float> d_x(x);
  const DeviceBuffer<float> d_y(y);
  const DeviceBuffer<float> d_bias(bias);
  // A row stride of 0: y is one row.
  const AddParams p{d_x.data(), n, d_y.data(), 0, d_bias.data(), n, nullptr, 2};
  ASSERT_EQ(LaunchAdd(p, nullptr), cudaSuccess);
  const auto got = d_x.Download();
  for (size_t i = 0; i < got.size(); ++i) {
    const size_t col = i % static_cast<size_t>(n);
    ASSERT_EQ(got[i], x[i] + y[col] + bias[col]);
  }
}

TEST_F(RowOpsTest, RopeTableIsAccurateFarOut) {
  std::vector<double> frequencies;
  for (int i = 0; i < 32; ++i) {
    frequencies.push_back(std::pow(500000.0, -i / 32.0));
  }
  const DeviceBuffer<double> d_frequencies(frequencies);
  const int positions = 131072;
  const DeviceBuffer<float2> table(32 * static_cast<size_t>(positions));
  ASSERT_EQ(LaunchRopeTable(d_frequencies.data(), 32, positions, table.data(), nullptr), cudaSuccess);
  const auto got = table.Download();
  for (size_t i = 0; i < got.size(); i += 97) {
    const double angle = static_cast<double>(i / 32) * frequencies[i % 32];
    ASSERT_NEAR(static_cast<double>(got[i].x), std::cos(angle), 1e-7);
    ASSERT_NEAR(static_cast<double>(got[i].y), std::sin(angle), 1e-7);
  }
}

}  // namespace
}  // namespace flexquant::cuda
