#ifndef FLEXQUANT_TESTS_KERNELS_CUDA_LINEAR_H_
#define FLEXQUANT_TESTS_KERNELS_CUDA_LINEAR_H_

// A matrix on the device with activations, for tests of the decode GEMV.

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/cuda/nested_gemv.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/cuda/device_matrix.h"
#include "tests/kernels/cuda/device_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant::testing {

inline constexpr int kRows = cuda::kMaxGemvRows;

// One matrix, rows of activations, and what to do with them.
class Linear {
 public:
  // x [., ldx], at most 64 rows.
  Linear(const NestedMatrix& w, std::vector<float> x, int64_t ldx, bool paired = false)
      : matrix_(w, paired),
        x_(x.empty() ? std::vector<float>(static_cast<size_t>(ldx)) : std::move(x)),
        device_x_(x_),
        widths_(kRows),
        valid_rows_(1),
        workspace_(cuda::GemvWorkspaceBytes(matrix_.view(), kRows, true)) {
    params_.weights = matrix_.view();
    params_.ldx = ldx;
    params_.widths = widths_.data();
    params_.workspace = workspace_.data();
    params_.dependent_launch = true;
  }
  // 64 rows of normal values.
  Linear(const NestedMatrix& w, uint32_t seed, bool paired = false)
      : Linear(w, RandomFloats(kRows * w.cols, seed), w.cols, paired) {}

  cuda::GemvParams& params() { return params_; }
  const std::vector<float>& x() const { return x_; }
  int64_t outputs() const { return params_.weights.rows / (params_.epilogue == cuda::GemvEpilogue::kSiluMul ? 2 : 1); }

  // Outputs of rows [first, first + widths.size()) of x at these widths, [rows, outputs()]; y starts as `initial` or
  // untouched. No rows at all are one that is not valid.
  std::vector<float> Run(int64_t first, const std::vector<uint8_t>& widths, const std::vector<float>& initial = {}) {
    cuda::GemvParams params = params_;
    const auto rows = static_cast<int64_t>(widths.size());
    params.rows = static_cast<int>(std::max<int64_t>(1, rows));
    if (rows == 0) {
      params.valid_rows = valid_rows_.data();
    }
    params.x = device_x_.data() + first * params.ldx;
    std::vector<uint8_t> table(kRows, 0xEE);
    std::copy(widths.begin(), widths.end(), table.begin());
    widths_.Upload(table);
    GuardedRows y(rows, outputs());
    for (int64_t t = 0; t < rows && !initial.empty(); ++t) {
      std::copy_n(initial.begin() + t * outputs(), outputs(), y.row(t));
    }
    const DeviceBuffer<float> device_y(y.values());
    params.y = device_y.data();
    params.ldy = y.stride();
    CheckCuda(cuda::LaunchNestedGemv(params, nullptr), "launch");
    y.values() = device_y.Download();
    return y.Take();
  }
  std::vector<float> RunUniform(int64_t first, int64_t rows, int bits) {
    return Run(first, std::vector<uint8_t>(static_cast<size_t>(rows), static_cast<uint8_t>(bits)));
  }

 private:
  DeviceMatrix matrix_;
  std::vector<float> x_;
  DeviceBuffer<float> device_x_;
  DeviceBuffer<uint8_t> widths_;
  DeviceBuffer<int32_t> valid_rows_;  // 0
  DeviceBuffer<uint8_t> workspace_;
  cuda::GemvParams params_;
};

class CudaGemvTest : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) {
      return;
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
