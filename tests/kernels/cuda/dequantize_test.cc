#include "kernels/cuda/dequantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cuda/embedding.h"
#include "kernels/cuda/prefill_gemm.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda/device_buffer.h"
#include "tests/kernels/cuda/device_matrix.h"
#include "tests/kernels/cuda/device_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant::cuda {
namespace {

using testing::DeviceBuffer;
using testing::DeviceMatrix;
using testing::DevicePlanes;
using testing::RandomFloats;
using testing::RandomMatrix;

class DequantizeTest : public testing::DeviceTest {};

void CheckDequantize(int64_t rows, int64_t cols, int64_t group_size, bool paired) {
  SCOPED_TRACE(::testing::Message() << rows << " x " << cols << ", groups of " << group_size
                                    << (paired ? ", paired" : ""));
  const RandomMatrix matrix(rows, cols, group_size, 3);
  const NestedMatrix& w = matrix.view();
  const DeviceMatrix d(w, paired);
  const int64_t stride = CeilDiv(cols, 8) * 8;
  const int64_t tiles = d.view().tiles();
  for (const int bits : {3, 4, 5, 6, 8}) {
    for (const int64_t begin : {int64_t{0}, tiles / 2}) {
      DeviceBuffer<uint16_t> out(static_cast<size_t>((tiles - begin) * kTileRows * stride));
      out.Fill(0x7C);
      DequantizeParams p;
      p.matrix = d.view();
      p.tile_begin = begin;
      p.tile_end = tiles;
      p.bits = bits;
      p.factor = 4.0F;
      p.out = out.data();
      p.stride = stride;
      p.paired_offset = (tiles - begin) * 8;
      ASSERT_EQ(LaunchDequantize(p, nullptr), cudaSuccess);
      const auto got = out.Download();
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t half = rows / 2;
        const int64_t in_half = row % std::max<int64_t>(1, half);
        const int64_t at = paired ? in_half - 8 * begin + (row >= half ? p.paired_offset : 0) : row - 16 * begin;
        if ((paired ? in_half - 8 * begin : at) < 0) {
          continue;
        }
        for (int64_t col = 0; col < cols; ++col) {
          const double want = 4 * reference::Weight(w, bits, row, col);
          ASSERT_NEAR(reference::HalfToDouble(got[static_cast<size_t>(at * stride + col)]), want,
                      0x1p-11 * std::fabs(want) + 1e-6)
              << row << " " << col << " at " << bits;
        }
      }
    }
  }
}

TEST_F(DequantizeTest, MatchesTheReference) {
  for (const int64_t group_size : {64, 128}) {
    CheckDequantize(1, 8, group_size, false);
    CheckDequantize(17, 40, group_size, false);
    CheckDequantize(48, 288, group_size, false);
    CheckDequantize(33, 1000, group_size, false);
    CheckDequantize(2, 64, group_size, true);
    CheckDequantize(44, 288, group_size, true);
    CheckDequantize(64, 530, group_size, true);
  }
}

// What tests/kernels/ops does not have: paired records, planes, 16 bits.
TEST_F(DequantizeTest, EmbeddingOfEitherLayoutAndOfTheReference) {
  for (const int64_t cols : {8, 288, 2052}) {
    for (const bool paired : {false, true}) {
      const RandomMatrix matrix(50, cols, 64, 9);
      const auto reference_values = RandomFloats(50 * cols, 10);
      const DeviceBuffer<float> d_reference(reference_values);
      const DeviceMatrix d(matrix.view(), paired);
      const DevicePlanes planes(matrix.view(), 0, matrix.view().tiles());
      const std::vector<uint32_t> tokens = {0, 49, 7, 8, 24, 25, 31};
      const DeviceBuffer<uint32_t> d_tokens(tokens);
      const DeviceBuffer<uint8_t> bits(std::vector<uint8_t>{8, 8, 3, 8, 8, 8, 16});
      for (const bool records : {false, true}) {
        const DeviceBuffer<float> hidden(tokens.size() * static_cast<size_t>(cols));
        EmbeddingParams p;
        p.planes = planes.view(matrix.view());
        p.planes.reference = d_reference.data();
        p.planes.reference_dtype = Dtype::kF32;
        if (records) {
          p.records = d.view();
        }
        p.tokens = d_tokens.data();
        p.bits = bits.data();
        p.max_rows = static_cast<int>(tokens.size());
        p.hidden = hidden.data();
        ASSERT_EQ(LaunchEmbedding(p, nullptr), cudaSuccess);
        const auto got = hidden.Download();
        for (size_t t = 0; t < tokens.size(); ++t) {
          for (int64_t col = 0; col < cols; ++col) {
            const auto at = static_cast<size_t>(tokens[t] * cols + col);
            const double want = t == 6 ? static_cast<double>(reference_values[at])
                                       : reference::Weight(matrix.view(), 8, tokens[t], col);
            ASSERT_NEAR(static_cast<double>(got[t * static_cast<size_t>(cols) + static_cast<size_t>(col)]), want,
                        1e-6 * std::fabs(want) + 1e-9)
                << "token " << tokens[t] << " column " << col << (records ? " of records" : " of planes");
          }
        }
      }
    }
  }
}

void CheckGemm(cublasHandle_t handle, int64_t rows, int64_t cols, int m, bool paired, int64_t tiles_at_once) {
  SCOPED_TRACE(::testing::Message() << rows << " x " << cols << ", " << m << " tokens" << (paired ? ", paired" : ""));
  const RandomMatrix matrix(rows, cols, 64, 5);
  const DeviceMatrix d(matrix.view(), paired);
  const auto x = RandomFloats(m * cols, 6);
  std::vector<uint16_t> halves;
  for (const float value : x) {
    halves.push_back(reference::DoubleToHalf(static_cast<double>(value)));
  }
  const DeviceBuffer<uint16_t> d_x(halves);
  const DeviceBuffer<float> y(RandomFloats(m * rows, 7));
  const auto before = y.Download();
  PrefillGemmParams p;
  p.matrix = d.view();
  p.bits = 6;
  p.x = d_x.data();
  p.x_stride = cols;
  p.num_rows = m;
  p.y = y.data();
  p.y_stride = rows;
  p.accumulate = true;
  p.weight_factor = 8.0F;
  p.workspace_bytes = PrefillGemmMinWorkspaceBytes(d.view()) * static_cast<size_t>(tiles_at_once);
  const DeviceBuffer<uint8_t> workspace(p.workspace_bytes);
  p.workspace = workspace.data();
  ASSERT_EQ(LaunchPrefillGemm(p, handle, nullptr), cudaSuccess);
  const auto got = y.Download();
  double difference = 0;
  double norm = 0;
  for (int t = 0; t < m; ++t) {
    for (int64_t row = 0; row < rows; ++row) {
      double want = static_cast<double>(before[static_cast<size_t>(t * rows + row)]);
      for (int64_t k = 0; k < cols; ++k) {
        want += reference::Weight(matrix.view(), 6, row, k) *
                reference::HalfToDouble(halves[static_cast<size_t>(t * cols + k)]);
      }
      difference += std::pow(static_cast<double>(got[static_cast<size_t>(t * rows + row)]) - want, 2);
      norm += want * want;
    }
  }
  EXPECT_LT(std::sqrt(difference / norm), 3e-4);  // weights are rounded to 11 bits
}

TEST_F(DequantizeTest, PrefillGemm) {
  cublasHandle_t handle = nullptr;
  ASSERT_EQ(cublasCreate(&handle), CUBLAS_STATUS_SUCCESS);
  CheckGemm(handle, 48, 64, 3, false, 100);
  CheckGemm(handle, 40, 288, 17, false, 1);
  CheckGemm(handle, 72, 320, 33, true, 100);
  CheckGemm(handle, 72, 320, 33, true, 2);
  CheckGemm(handle, 100, 128, 1, false, 3);
  CheckGemm(handle, 100, 128, 1, true, 3);
  EXPECT_EQ(cublasDestroy(handle), CUBLAS_STATUS_SUCCESS);
}

}  // namespace
}  // namespace flexquant::cuda
