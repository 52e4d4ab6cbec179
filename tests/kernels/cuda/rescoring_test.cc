// What rescoring on the GPU does beside tests/kernels/ops: the norm in front, shares of a vocabulary, logits that are
// not finite.

#include "kernels/cuda/rescoring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/precision.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda/device_buffer.h"
#include "tests/kernels/cuda/device_matrix.h"
#include "tests/kernels/cuda/device_test.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant::cuda {
namespace {

using testing::DeviceBuffer;
using testing::RandomFloats;
using testing::RandomMatrix;

class CudaRescoringTest : public testing::DeviceTest {
 protected:
  static constexpr int64_t kVocab = 1000;
  static constexpr int64_t kCols = 300;
  static constexpr int kRows = 2;
  static constexpr int kLimit = 50;

  // Both rows at 4 bits.
  struct Rescoring {
    Rescoring() : Rescoring(RandomFloats(kRows * kVocab, 3, 2.0F)) {}
    explicit Rescoring(const std::vector<float>& before) : logits(before) {
      params.head = matrix.view();
      params.vocab = static_cast<int>(kVocab);
      params.limit = kLimit;
      params.x = device_x.data();
      params.ldx = kCols;
      params.widths = widths.data();
      params.logits = logits.data();
      params.stride = kVocab;
      params.max_rows = kRows;
      params.workspace = workspace.data();
    }

    RandomMatrix weights{kVocab, kCols, 64, 1};
    testing::DeviceMatrix matrix{weights.view()};
    std::vector<float> x = RandomFloats(kRows * kCols, 2);
    DeviceBuffer<float> device_x{x};
    DeviceBuffer<uint8_t> widths{std::vector<uint8_t>(kRows, 4)};
    DeviceBuffer<uint8_t> workspace{RescoringWorkspaceBytes(kRows, kLimit)};
    DeviceBuffer<float> logits;
    RescoringParams params;
  };

  static void Run(const RescoringParams& params) {
    ASSERT_EQ(LaunchRescoringChoice(params, nullptr), cudaSuccess);
    ASSERT_EQ(LaunchRescoring(params, nullptr), cudaSuccess);
  }
};

TEST_F(CudaRescoringTest, NormalisesFirst) {
  Rescoring r;
  const auto before = r.logits.Download();
  auto norm = RandomFloats(kCols, 5);
  const DeviceBuffer<float> device_norm(norm);
  r.params.norm_weight = device_norm.data();
  r.params.norm_eps = 0.01F;
  Run(r.params);
  const auto got = r.logits.Download();
  for (int row = 0; row < kRows; ++row) {
    const auto x = reference::RmsNorm(r.x.data() + row * kCols, norm.data(), kCols, 0.01);
    const auto likeliest = reference::Likeliest(before.data() + row * kVocab, kVocab, kLimit);
    ASSERT_FALSE(likeliest.empty());
    for (const int64_t token : likeliest) {
      double sum = 0;
      double magnitude = 0;
      for (int64_t k = 0; k < kCols; ++k) {
        const double product = reference::Weight(r.weights.view(), kTopPrecision, token, k) * x[static_cast<size_t>(k)];
        sum += product;
        magnitude += std::fabs(product);
      }
      EXPECT_NEAR(static_cast<double>(got[static_cast<size_t>(row * kVocab + token)]), sum, 1e-5 * magnitude) << token;
    }
  }
}

// Each with a part of the head; neither part begins or ends where a block's share of the logits does.
TEST_F(CudaRescoringTest, SharesOfAVocabularyMakeTheWhole) {
  Rescoring whole;
  Run(whole.params);
  Rescoring shared;
  ASSERT_EQ(LaunchRescoringChoice(shared.params, nullptr), cudaSuccess);
  const auto before = shared.logits.Download();
  constexpr int64_t kTiles = 20;
  RescoringParams part = shared.params;
  part.head.rows = kTiles * kTileRows;
  ASSERT_EQ(LaunchRescoring(part, nullptr), cudaSuccess);
  const auto half = shared.logits.Download();
  EXPECT_NE(half, before);
  EXPECT_NE(half, whole.logits.Download());
  part = shared.params;
  part.head.data += kTiles * part.head.tile_bytes();
  part.head.rows -= kTiles * kTileRows;
  part.vocab_begin = kTiles * kTileRows;
  ASSERT_EQ(LaunchRescoring(part, nullptr), cudaSuccess);
  EXPECT_EQ(shared.logits.Download(), whole.logits.Download());
}

// They stay, for sampling to report; a largest logit without end leaves nothing within reach.
TEST_F(CudaRescoringTest, LogitsThatAreNotFiniteStay) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  auto logits = RandomFloats(kRows * kVocab, 3, 2.0F);
  logits[7] = std::numeric_limits<float>::quiet_NaN();
  logits[8] = -kInfinity;
  logits[kVocab + 9] = kInfinity;
  Rescoring r(logits);
  Run(r.params);
  const auto got = r.logits.Download();
  EXPECT_TRUE(std::isnan(got[7]));
  EXPECT_EQ(got[8], -kInfinity);
  EXPECT_FALSE(std::equal(got.begin() + 9, got.begin() + kVocab, logits.begin() + 9));
  EXPECT_TRUE(std::equal(got.begin() + kVocab, got.end(), logits.begin() + kVocab));
}

TEST_F(CudaRescoringTest, RefusesWhatItCannotDo) {
  Rescoring r;
  for (const int wrong : {0, 1, 2}) {
    RescoringParams params = r.params;
    params.head.paired = wrong == 0;
    params.head.cols = wrong == 1 ? kMaxRescoringCols + 1 : kCols;
    params.head.group_size = wrong == 2 ? 32 : 64;
    EXPECT_EQ(LaunchRescoring(params, nullptr), cudaErrorInvalidValue) << wrong;
  }
}

}  // namespace
}  // namespace flexquant::cuda
