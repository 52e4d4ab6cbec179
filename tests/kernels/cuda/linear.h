#ifndef FLEXQUANT_TESTS_KERNELS_CUDA_LINEAR_H_
#define FLEXQUANT_TESTS_KERNELS_CUDA_LINEAR_H_

// A matrix on the device with activations, for tests of the decode GEMV.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cuda/nested_gemv.h"
#include "tests/kernels/cuda/device_matrix.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant::testing {

inline constexpr float kUntouched = -12345.0F;
inline constexpr int kRows = 64;

// Bit patterns, so that a NaN or a signed zero counts.
inline std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits(values.size());
  std::memcpy(bits.data(), values.data(), values.size() * sizeof(float));
  return bits;
}

// One matrix, 64 rows of activations, and what to do with them.
class Linear {
 public:
  Linear(const NestedMatrix& w, uint32_t seed, bool paired = false)
      : matrix_(w, paired),
        x_(RandomFloats(kRows * w.cols, seed)),
        device_x_(x_),
        widths_(kRows),
        workspace_(cuda::GemvWorkspaceBytes(matrix_.view(), kRows, true)) {
    Check(cudaMemset(workspace_.get(), 0, cuda::kGemvCounterBytes), "counters");
    params_.weights = matrix_.view();
    params_.ldx = w.cols;
    params_.widths = widths_.get();
    params_.workspace = workspace_.get();
    params_.dependent_launch = true;
  }

  cuda::GemvParams& params() { return params_; }
  const std::vector<float>& x() const { return x_; }
  int64_t outputs() const { return params_.weights.rows / (params_.epilogue == cuda::GemvEpilogue::kSiluMul ? 2 : 1); }

  // Outputs of rows [first, first + widths.size()) of x at these widths, [rows, outputs()]; y starts as `initial`.
  std::vector<float> Run(int first, const std::vector<uint8_t>& widths, const std::vector<float>& initial = {}) {
    cuda::GemvParams params = params_;
    params.rows = static_cast<int>(widths.size());
    params.x = device_x_.get() + first * params.ldx;
    std::vector<uint8_t> table(kRows, 0xEE);
    std::copy(widths.begin(), widths.end(), table.begin());
    widths_.Set(table);
    params.ldy = outputs() + 3;
    std::vector<float> start(static_cast<size_t>(params.rows * params.ldy), kUntouched);
    const auto row = [&](std::vector<float>& y, int64_t t) { return y.begin() + t * params.ldy; };
    for (int64_t t = 0; t < params.rows && !initial.empty(); ++t) {
      std::copy_n(initial.begin() + t * outputs(), outputs(), row(start, t));
    }
    const DeviceArray<float> y(start);
    params.y = y.get();
    Check(cuda::LaunchNestedGemv(params, nullptr), "launch");
    Check(cudaDeviceSynchronize(), "run");
    std::vector<float> got = y.Get();
    std::vector<float> result;
    for (int64_t t = 0; t < params.rows; ++t) {
      result.insert(result.end(), row(got, t), row(got, t) + outputs());
      for (int64_t n = outputs(); n < params.ldy; ++n) {
        EXPECT_EQ(row(got, t)[n], kUntouched);
      }
    }
    return result;
  }
  std::vector<float> RunUniform(int first, int rows, int bits) {
    return Run(first, std::vector<uint8_t>(static_cast<size_t>(rows), static_cast<uint8_t>(bits)));
  }

 private:
  DeviceMatrix matrix_;
  std::vector<float> x_;
  DeviceArray<float> device_x_;
  DeviceArray<uint8_t> widths_;
  DeviceArray<uint8_t> workspace_;
  cuda::GemvParams params_;
};

inline std::vector<float> RowsOf(const std::vector<float>& y, int64_t outputs, int64_t first, int64_t rows) {
  return {y.begin() + first * outputs, y.begin() + (first + rows) * outputs};
}

// fp32 rounding of four operations a block of 64 columns.
inline void ExpectNear(const std::vector<float>& y, int64_t y_row, const std::vector<double>& expected,
                       const std::vector<double>& magnitude, int64_t cols, const char* what) {
  const double epsilon = static_cast<double>(std::numeric_limits<float>::epsilon());
  for (size_t n = 0; n < expected.size(); ++n) {
    const double tolerance = 4.0 * static_cast<double>(CeilDiv(cols, 64) + 1) * epsilon * magnitude[n];
    ASSERT_NEAR(static_cast<double>(y[static_cast<size_t>(y_row) * expected.size() + n]), expected[n], tolerance)
        << what << " batch row " << y_row << " output " << n;
  }
}

class CudaGemvTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      GTEST_SKIP() << "no CUDA device";
    }
    cudaDeviceProp properties{};
    Check(cudaGetDeviceProperties(&properties, 0), "properties");
    if (properties.major < 8) {
      GTEST_SKIP() << "needs compute capability 8.0";
    }
    if (cuda::HopperPathSupported()) {
      paths_.push_back(false);
    }
    paths_.push_back(true);
  }

  std::vector<bool> paths_;  // values of cuda::GemvParams::portable
};

}  // namespace flexquant::testing

#endif  // FLEXQUANT_TESTS_KERNELS_CUDA_LINEAR_H_
