#include <gtest/gtest.h>

#include <set>

#include "kernels/cuda/activation_blocks.h"

namespace flexquant::cuda {
namespace {

TEST(ActivationOrderTest, EveryElementHasAPlace) {
  for (const int64_t rows : {1, 8, 19}) {
    for (const int64_t cols : {1, 64, 200}) {
      std::set<int64_t> places;
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t col = 0; col < cols; ++col) {
          places.insert(ActivationPair(ActivationBlockRows(rows), row, col) + col % 2);
        }
      }
      EXPECT_EQ(places.size(), static_cast<size_t>(rows * cols));
      EXPECT_GE(*places.begin(), 0);
      EXPECT_LT(*places.rbegin(), static_cast<int64_t>(BlockedActivations(rows, cols)));
    }
  }
}

}  // namespace
}  // namespace flexquant::cuda
