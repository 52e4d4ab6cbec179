#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "common/precision.h"
#include "common/store/nested_quantizer.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

// Two decoders of the format, written apart, and the writer.
TEST(StoreAgreementTest, TheStoreAndTheOracleDecodeTheSameWeights) {
  for (const int64_t cols : {31, 172, 576}) {
    const int64_t rows = 35;
    const auto weights = testing::RandomFloats(rows * cols, 81, 0.05F);
    const NestedMatrixBuffers buffers = QuantizeNested(weights, rows, cols, 128);
    const NestedMatrix w = buffers.view();
    std::vector<float> row(static_cast<size_t>(cols));
    for (const int bits : kPrecisions) {
      double error = 0;
      double norm = 0;
      for (int64_t n = 0; n < rows; ++n) {
        DequantizeRow(w, n, bits, absl::MakeSpan(row));
        for (int64_t k = 0; k < cols; ++k) {
          const double expected = reference::Weight(w, bits, n, k);
          const auto got = static_cast<double>(row[static_cast<size_t>(k)]);
          ASSERT_NEAR(got, expected, 1e-6 * std::fabs(expected) + 1e-9)
              << "bits " << bits << " row " << n << " col " << k;
          const auto weight = static_cast<double>(weights[static_cast<size_t>(n * cols + k)]);
          error += (expected - weight) * (expected - weight);
          norm += weight * weight;
        }
      }
      // Round-to-nearest of a normal distribution leaves about 0.2 at 3 bits and halves with each bit.
      EXPECT_LT(std::sqrt(error / norm), 0.3 * std::ldexp(1.0, 3 - bits)) << "bits " << bits;
    }
  }
}

}  // namespace
}  // namespace flexquant
