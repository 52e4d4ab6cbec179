#include "kernels/cuda/prefill_fused.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/cuda/activation_blocks.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda/device_buffer.h"
#include "tests/kernels/cuda/device_matrix.h"
#include "tests/kernels/cuda/device_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant::cuda {
namespace {

using testing::DeviceBuffer;
using testing::DeviceMatrix;
using testing::RandomFloats;
using testing::RandomMatrix;

class PrefillFusedTest : public testing::DeviceTest {
 protected:
  void SetUp() override {
    testing::DeviceTest::SetUp();
    if (!IsSkipped() && !FusedGemmSupported()) {
      GTEST_SKIP() << "needs compute capability 9.0";
    }
  }
};

// Activations of `tokens` rows, each a power of two times halves, and the same in blocks. Rows of the last eight that
// are past `tokens` are not numbers: they must not reach others.
struct Activations {
  std::vector<double> values;  // [tokens, cols]
  std::vector<uint16_t> blocks;
  std::vector<float> row_scale;

  Activations(int tokens, int64_t cols) {
    const int64_t block_rows = ActivationBlockRows(tokens);
    blocks.assign(BlockedActivations(tokens, cols), 0);
    for (int64_t row = tokens; row < block_rows; ++row) {
      for (int64_t col = 0; col < CeilDiv(cols, kActivationBlockCols) * kActivationBlockCols; col += 2) {
        const auto at = static_cast<size_t>(ActivationPair(block_rows, row, col));
        blocks[at] = blocks[at + 1] = 0x7E00;
      }
    }
    const auto x = RandomFloats(tokens * cols, 6);
    for (int row = 0; row < tokens; ++row) {
      row_scale.push_back(std::ldexp(1.0F, row % 5 - 2));
      for (int64_t col = 0; col < cols; ++col) {
        const uint16_t half = reference::DoubleToHalf(static_cast<double>(x[static_cast<size_t>(row * cols + col)]));
        blocks[static_cast<size_t>(ActivationPair(block_rows, row, col) + col % 2)] = half;
        values.push_back(reference::HalfToDouble(half) * static_cast<double>(row_scale.back()));
      }
    }
  }
};

struct Case {
  int64_t rows;
  int64_t cols;
  int tokens;
  int bits = 8;
  GemvEpilogue epilogue = GemvEpilogue::kStore;
  int64_t group_size = 64;
  FusedTuning tuning = {};
  int64_t padding = 3;  // floats of y between rows
};

// A product's outputs and, of each, the norm of its terms, which the error of rounding their factors goes by.
struct Expected {
  std::vector<double> values;
  std::vector<double> norms;
};

Expected Product(const NestedMatrix& w, int bits, const Activations& x, int tokens, const std::vector<float>& bias) {
  std::vector<double> weights;
  for (int64_t row = 0; row < w.rows; ++row) {
    for (int64_t col = 0; col < w.cols; ++col) {
      weights.push_back(reference::Weight(w, bits, row, col));
    }
  }
  Expected y;
  for (int t = 0; t < tokens; ++t) {
    for (int64_t row = 0; row < w.rows; ++row) {
      double sum = 0;
      double squares = 0;
      for (int64_t col = 0; col < w.cols; ++col) {
        const double term =
            weights[static_cast<size_t>(row * w.cols + col)] * x.values[static_cast<size_t>(t * w.cols + col)];
        sum += term;
        squares += term * term;
      }
      y.values.push_back(sum + static_cast<double>(bias[static_cast<size_t>(row)]));
      y.norms.push_back(std::sqrt(squares));
    }
  }
  return y;
}

void Check(const Case& c) {
  SCOPED_TRACE(::testing::Message() << c.rows << " x " << c.cols << ", " << c.tokens << " tokens, " << c.bits
                                    << " bits, groups of " << c.group_size << ", epilogue "
                                    << static_cast<int>(c.epilogue) << ", block of " << c.tuning.tokens << ", splits "
                                    << c.tuning.splits << ", share " << c.tuning.share);
  const bool paired = c.epilogue == GemvEpilogue::kSiluMul;
  const RandomMatrix matrix(c.rows, c.cols, c.group_size, 5);
  const DeviceMatrix device(matrix.view(), paired);
  const Activations x(c.tokens, c.cols);
  const auto bias = RandomFloats(c.rows, 8);
  const int64_t outputs = paired ? c.rows / 2 : c.rows;
  const int64_t stride = outputs + c.padding;
  const auto before = RandomFloats(c.tokens * stride, 7);
  const DeviceBuffer<uint16_t> d_x(x.blocks);
  const DeviceBuffer<float> d_scale(x.row_scale);
  const DeviceBuffer<float> d_bias(bias);
  const DeviceBuffer<float> y(before);
  const FusedGemmParams p{device.view(), c.bits,        d_x.data(), d_scale.data(), c.tokens,
                          c.epilogue,    d_bias.data(), y.data(),   stride,         c.tuning};
  ASSERT_EQ(LaunchFusedGemm(p, nullptr), cudaSuccess);
  const auto got = y.Download();

  const auto product = Product(matrix.view(), c.bits, x, c.tokens, bias);
  double difference = 0;
  double norm = 0;
  for (int t = 0; t < c.tokens; ++t) {
    for (int64_t n = 0; n < stride; ++n) {
      const auto at = static_cast<size_t>(t * stride + n);
      if (n >= outputs) {
        ASSERT_EQ(got[at], before[at]) << "between rows, token " << t;
        continue;
      }
      const auto of = static_cast<size_t>(t * c.rows + n);
      double want = product.values[of];
      double scale = product.norms[of];
      if (c.epilogue == GemvEpilogue::kAdd) {
        want += static_cast<double>(before[at]);
      } else if (paired) {
        const auto up = of + static_cast<size_t>(outputs);
        const double silu = want / (1.0 + std::exp(-want));  // its slope is at most 1.1
        scale = std::hypot(1.1 * scale * product.values[up], silu * product.norms[up]);
        want = silu * product.values[up];
      }
      ASSERT_TRUE(std::isfinite(got[at])) << "token " << t << " output " << n;
      difference += std::pow(static_cast<double>(got[at]) - want, 2);
      norm += scale * scale;
    }
  }
  // Weights are rounded to 11 bits; the mean of few such errors varies. What is left is fp32's.
  const double samples = static_cast<double>(c.tokens * outputs);
  EXPECT_LT(std::sqrt(difference / (norm + 1e-8)), 3e-4 * (1 + 3 / std::sqrt(2 * samples)));
}

TEST_F(PrefillFusedTest, EveryWidthAndEpilogue) {
  for (const int bits : {3, 4, 5, 6, 8}) {
    for (const int64_t group_size : {64, 128}) {
      Check({144, 576, 70, bits, GemvEpilogue::kStore, group_size});
      Check({144, 576, 30, bits, GemvEpilogue::kAdd, group_size});
      Check({144, 576, 140, bits, GemvEpilogue::kSiluMul, group_size});
    }
  }
}

TEST_F(PrefillFusedTest, AwkwardShapes) {
  for (const int64_t cols : {1, 60, 64, 100, 192, 256, 300, 1088}) {
    for (const int64_t rows : {2, 16, 40, 130, 258}) {
      for (const int tokens : {1, 17}) {
        Check({rows, cols, tokens});
        Check({rows, cols, tokens, 4, GemvEpilogue::kAdd, 128});
        Check({rows, cols, tokens, 6, GemvEpilogue::kSiluMul});
      }
    }
  }
  Check({130, 320, 257, 8, GemvEpilogue::kAdd, 64, {}, 0});
  Check({131, 320, 9, 8, GemvEpilogue::kStore, 64, {}, 1});
  Check({129, 64, 130, 8, GemvEpilogue::kAdd, 64, {}, 3});
  Check({264, 320, 300, 5, GemvEpilogue::kSiluMul, 64, {}, 4});
  Check({1, 64, 3});
}

// A ring goes round several times, with every way to divide the work.
TEST_F(PrefillFusedTest, AnyDivision) {
  for (const int tokens : {64, 128, 256}) {
    for (const int splits : {1, 2, 3, 4, 6, 8}) {
      for (const int share : {1, 2, 4}) {
        if (splits * share <= 8) {
          Check({272, 2368, 70, 8, GemvEpilogue::kAdd, 64, {tokens, splits, share}});
          Check({528, 1088, 33, 3, GemvEpilogue::kSiluMul, 64, {tokens, splits, share}});
        }
      }
    }
  }
}

// Small enough for compute-sanitizer.
TEST_F(PrefillFusedTest, RingsGoRound) {
  Check({144, 1088, 30, 8, GemvEpilogue::kAdd});
  Check({144, 576, 70, 3, GemvEpilogue::kSiluMul, 64, {64, 2, 2}});
}

TEST_F(PrefillFusedTest, NoTokensAndBadParameters) {
  const RandomMatrix matrix(32, 64, 64, 1);
  const DeviceMatrix device(matrix.view());
  FusedGemmParams p;
  p.matrix = device.view();
  EXPECT_EQ(LaunchFusedGemm(p, nullptr), cudaSuccess);
  p.bits = 7;
  EXPECT_EQ(LaunchFusedGemm(p, nullptr), cudaErrorInvalidValue);
  p.bits = 8;
  p.tuning.tokens = 32;
  EXPECT_EQ(LaunchFusedGemm(p, nullptr), cudaErrorInvalidValue);
  p.tuning = {64, 4, 4};
  EXPECT_EQ(LaunchFusedGemm(p, nullptr), cudaErrorInvalidValue);
  p.tuning = {};
  p.epilogue = GemvEpilogue::kSiluMul;
  EXPECT_EQ(LaunchFusedGemm(p, nullptr), cudaErrorInvalidValue) << "the matrix is not paired";
}

}  // namespace
}  // namespace flexquant::cuda
