#include "kernels/cuda/nested_gemv.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <random>
#include <thread>
#include <vector>

#include "common/precision.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/compare.h"
#include "tests/kernels/cuda/device_matrix.h"
#include "tests/kernels/cuda/linear.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using cuda::GemvTuning;
using testing::Bits;
using testing::CudaGemvTest;
using testing::DeviceBuffer;
using testing::DeviceMatrix;
using testing::kRows;
using testing::Linear;
using testing::RandomFloats;
using testing::RandomMatrix;
using testing::RowsOf;

struct Shape {
  int64_t rows;
  int64_t cols;
  int64_t group;
};

const Shape kShapes[] = {{1, 32, 64},     {15, 64, 64},     {16, 172, 64},  {17, 576, 64},   {40, 1536, 64},
                         {40, 4096, 64},  {33, 300, 128},   {40, 576, 128}, {17, 4096, 128}, {2500, 1024, 64},
                         {16, 14336, 64}, {1250, 2340, 64}, {33, 3000, 128}};

GemvTuning Tuning(int fused_rows, int parts, int ctas_per_sm, int chunk_columns, int sets) {
  GemvTuning tuning;
  tuning.fused_rows = fused_rows;
  tuning.parts = parts;
  tuning.ctas_per_sm = ctas_per_sm;
  tuning.chunk_columns = chunk_columns;
  tuning.sets = sets;
  return tuning;
}

// Whatever the device: one CTA of the launch on an SM, or two where they fit.
GemvTuning LaunchCtas(int launch_ctas, int sets) {
  GemvTuning tuning;
  tuning.launch_ctas = launch_ctas;
  tuning.sets = sets;
  return tuning;
}

// With few sets of CTAs each takes many rounds of tiles.
const GemvTuning kTunings[] = {GemvTuning{},
                               Tuning(0, 2, 1, 0, 0),
                               Tuning(8, 4, 2, 0, 0),
                               Tuning(-1, 8, 0, 16, 1),
                               Tuning(-1, 1, 0, 32, 1),
                               Tuning(-1, 4, 0, 16, 2),
                               Tuning(0, 8, 2, 32, 1),
                               Tuning(64, 8, 0, 32, 0),
                               Tuning(64, 2, 0, 16, 1),
                               LaunchCtas(1, 0),
                               LaunchCtas(2, 0),
                               LaunchCtas(2, 1)};

// The portable kernels without tuning are those that tests/kernels/ops compares with the reference.
TEST_F(CudaGemvTest, NeitherPathNorTuningNorBatchMatters) {
  uint32_t seed = 1;
  for (const Shape& shape : kShapes) {
    const RandomMatrix matrix(shape.rows, shape.cols, shape.group, ++seed);
    Linear linear(matrix.view(), ++seed);
    for (const int bits : kPrecisions) {
      linear.params().portable = true;
      linear.params().tuning = {};
      const auto whole = linear.RunUniform(0, kRows, bits);
      for (const bool portable : paths_) {
        linear.params().portable = portable;
        for (const int m : {1, 2, 3, 4, 7, 8, 9, 16, 17, 31, 32, 33, 64}) {
          for (const GemvTuning& tuning : kTunings) {
            const int first = kRows - m;
            linear.params().tuning = tuning;
            ASSERT_EQ(Bits(linear.RunUniform(first, m, bits)), Bits(RowsOf(whole, shape.rows, first, m)))
                << shape.rows << "x" << shape.cols << " group " << shape.group << " bits " << bits << " batch " << m
                << " portable " << portable << " parts " << tuning.parts;
          }
        }
      }
    }
  }
}

// Small enough for compute-sanitizer.
TEST_F(CudaGemvTest, EveryInstanceOnce) {
  const RandomMatrix matrix(24, 2340, 64, 51);
  Linear linear(matrix.view(), 52);
  linear.params().portable = true;
  const auto whole = linear.RunUniform(0, kRows, 5);
  for (const bool portable : paths_) {
    linear.params().portable = portable;
    for (const int m : {1, 2, 8, 16, 33}) {
      for (const GemvTuning& tuning :
           {LaunchCtas(1, 0), LaunchCtas(2, 0), Tuning(0, 2, 1, 0, 0), Tuning(-1, 8, 0, 16, 1)}) {
        linear.params().tuning = tuning;
        EXPECT_EQ(Bits(linear.RunUniform(0, m, 5)), Bits(RowsOf(whole, matrix.view().rows, 0, m)))
            << "batch " << m << " portable " << portable << " parts " << tuning.parts;
      }
    }
  }
}

// As ranks that share a device do: launches of one kernel that need different amounts of shared memory.
TEST_F(CudaGemvTest, ThreadsThatLaunchOnOneDevice) {
  constexpr int kLaunches = 500;
  for (const bool portable : paths_) {
    for (const int m : {1, 8}) {
      std::vector<std::thread> threads;
      for (const int64_t cols : {192, 384, 4096}) {
        threads.emplace_back([cols, m, portable] {
          const RandomMatrix matrix(192, cols, 64, 61);
          Linear linear(matrix.view(), 62);
          linear.params().portable = portable;
          const auto first = linear.RunUniform(0, m, 4);
          for (int launch = 0; launch < kLaunches; ++launch) {
            ASSERT_EQ(Bits(linear.RunUniform(0, m, 4)), Bits(first)) << "launch " << launch << " of " << cols;
          }
        });
      }
      for (std::thread& thread : threads) {
        thread.join();
      }
    }
  }
}

TEST_F(CudaGemvTest, MixedWidthsEqualEachRowAloneInEveryTuning) {
  uint32_t seed = 100;
  std::mt19937 random(3);
  for (const Shape& shape : kShapes) {
    const RandomMatrix matrix(shape.rows, shape.cols, shape.group, ++seed);
    Linear linear(matrix.view(), ++seed);
    for (const uint32_t fine : {0U, 1U << 6 | 1U << 8}) {
      linear.params().portable = true;
      linear.params().tuning = {};
      linear.params().fine_widths = fine;
      std::vector<std::vector<float>> alone(9);
      for (const int bits : kPrecisions) {
        alone[static_cast<size_t>(bits)] = linear.RunUniform(0, kRows, bits);
      }
      for (const bool portable : paths_) {
        linear.params().portable = portable;
        for (const int m : {2, 3, 4, 5, 8, 13, 16, 17, 18, 21, 24, 29, 31, 32, 33, 36, 40, 47, 56, 63, 64}) {
          std::vector<uint8_t> widths(static_cast<size_t>(m));
          const int most = m % 2 == 0 ? 5 : 2;  // also mixes of 3 and 4 alone
          for (auto& width : widths) {
            width = static_cast<uint8_t>(kPrecisions[random() % static_cast<unsigned>(most)]);
          }
          linear.params().tuning = kTunings[static_cast<size_t>(m) % std::size(kTunings)];
          const auto y = linear.Run(0, widths);
          for (int t = 0; t < m; ++t) {
            ASSERT_EQ(Bits(RowsOf(y, shape.rows, t, 1)),
                      Bits(RowsOf(alone[widths[static_cast<size_t>(t)]], shape.rows, t, 1)))
                << shape.rows << "x" << shape.cols << " batch " << m << " row " << t << " portable " << portable;
          }
        }
      }
    }
  }
}

// Where no width takes 15-bit activations, a launch, or a chunk of one, computes one column a row instead of two.
TEST_F(CudaGemvTest, DroppedLowColumnsChangeNoResult) {
  uint32_t seed = 200;
  std::mt19937 random(4);
  for (const Shape& shape : kShapes) {
    const RandomMatrix matrix(shape.rows, shape.cols, shape.group, ++seed);
    Linear linear(matrix.view(), ++seed);
    linear.params().fine_widths = 1U << 6 | 1U << 8;
    const auto weight = RandomFloats(shape.cols, ++seed);
    const DeviceBuffer<float> device_weight(weight);
    for (const bool portable : paths_) {
      linear.params().portable = portable;
      for (const int m : {1, 2, 3, 4, 5, 8, 9, 13, 16, 17, 32, 33, 48, 64}) {
        linear.params().norm_weight = m % 2 == 0 ? device_weight.data() : nullptr;
        // Of the first so many rows, which may be less than a chunk; the others may have any width.
        for (const int coarse : {m, m / 2, std::min(m, 16)}) {
          std::vector<uint8_t> widths(static_cast<size_t>(m));
          for (int t = 0; t < m; ++t) {
            const unsigned choices = t >= coarse ? 5 : m % 3 == 0 ? 1 : 3;
            widths[static_cast<size_t>(t)] = static_cast<uint8_t>(kPrecisions[random() % choices]);
          }
          const DeviceBuffer<int32_t> count(std::vector<int32_t>{coarse});
          for (const int32_t* valid :
               {static_cast<const int32_t*>(nullptr), static_cast<const int32_t*>(count.data())}) {
            linear.params().valid_rows = valid;
            linear.params().tuning = kTunings[random() % std::size(kTunings)];
            linear.params().tuning.keep_low_columns = true;
            const auto kept = linear.Run(0, widths);
            linear.params().tuning.keep_low_columns = false;
            ASSERT_EQ(Bits(linear.Run(0, widths)), Bits(kept))
                << shape.rows << "x" << shape.cols << " batch " << m << " coarse " << coarse << " only those "
                << (valid != nullptr) << " portable " << portable;
          }
        }
      }
    }
  }
}

TEST_F(CudaGemvTest, NormIsTheSameFusedOrNotAndNearTheReference) {
  for (const int64_t cols : {172, 576, 4096, 9000}) {
    const RandomMatrix matrix(48, cols, 64, 9);
    Linear linear(matrix.view(), 10);
    const auto weight = RandomFloats(cols, 11);
    const DeviceBuffer<float> device_weight(weight);
    linear.params().norm_weight = device_weight.data();
    linear.params().norm_eps = 1e-5F;
    linear.params().portable = paths_.front();
    const auto whole = linear.RunUniform(0, kRows, 8);
    for (const int m : {1, 2, 4, 8, 11, 16, 33, 61}) {
      for (const GemvTuning& tuning :
           {Tuning(0, 0, 0, 0, 0), Tuning(1, 0, 0, 0, 0), Tuning(4, 1, 0, 0, 0), Tuning(64, 4, 0, 0, 0),
            Tuning(64, 8, 0, 16, 0), LaunchCtas(1, 0), LaunchCtas(2, 0)}) {
        linear.params().tuning = tuning;
        ASSERT_EQ(Bits(linear.RunUniform(3, m, 8)), Bits(RowsOf(whole, 48, 3, m))) << cols << " batch " << m;
      }
    }
    for (const int t : {0, 63}) {
      const float* x = linear.x().data() + t * cols;
      const auto normed = reference::RmsNorm(x, weight.data(), cols, 1e-5);
      for (int64_t n = 0; n < 48; ++n) {
        double expected = 0;
        double squares = 0;
        for (int64_t k = 0; k < cols; ++k) {
          const double term = reference::Weight(matrix.view(), 8, n, k) * normed[static_cast<size_t>(k)];
          expected += term;
          squares += term * term;
        }
        // int8 activations: an error of about 0.7 % of each term, independent between terms.
        ASSERT_NEAR(whole[static_cast<size_t>(t * 48 + n)], expected, 0.06 * std::sqrt(squares)) << "output " << n;
      }
    }
  }
}

TEST_F(CudaGemvTest, RepackingInRangesGivesTheSameBytes) {
  for (const bool paired : {false, true}) {
    const RandomMatrix matrix(344, 1132, 64, 21);
    const auto whole = DeviceMatrix(matrix.view(), paired).Bytes();
    for (const int64_t range : {1, 3, 7}) {
      ASSERT_EQ(DeviceMatrix(matrix.view(), paired, range).Bytes(), whole);
    }
  }
}

}  // namespace
}  // namespace flexquant
