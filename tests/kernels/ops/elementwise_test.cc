#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "kernels/reference/reference.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/compare.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant {
namespace {

using testing::kEpsilon;
using testing::LargestMagnitude;
using testing::RandomFloats;
using testing::RandomMatrix;
using testing::RopeInput;
using testing::RopeOutput;

class ElementwiseTest : public testing::BackendTest {};

TEST_P(ElementwiseTest, RmsNorm) {
  for (const int64_t n : {1, 7, 16, 31, 64, 288, 576, 4096, 11008}) {
    for (const int64_t m : {0, 1, 3}) {
      const auto x = RandomFloats(m * (n + 2), 3, 3.0F);
      const auto weight = RandomFloats(n, 4);
      const auto y = backend().RmsNorm(x, n + 2, weight, m, 1e-5F);
      ASSERT_EQ(y.size(), static_cast<size_t>(m * n));
      for (int64_t t = 0; t < m; ++t) {
        const auto expected = reference::RmsNorm(x.data() + t * (n + 2), weight.data(), n, static_cast<double>(1e-5F));
        for (int64_t i = 0; i < n; ++i) {
          const double want = expected[static_cast<size_t>(i)];
          // Roundings of the sum of squares are independent of each other.
          ASSERT_NEAR(static_cast<double>(y[static_cast<size_t>(t * n + i)]), want,
                      (8 + std::sqrt(static_cast<double>(n))) * kEpsilon * std::fabs(want))
              << n << " columns, row " << t << " of " << m;
        }
      }
    }
  }
}

TEST_P(ElementwiseTest, SiluMulHoldsFromTinyToHuge) {
  std::vector<float> gate;
  for (int i = -1000; i <= 1000; ++i) {
    gate.push_back(static_cast<float>(i) * 0.1F);
  }
  for (const float x : {-1e30F, -1e4F, 1e4F, 1e30F, 0.0F, 1e-30F, -1e-30F}) {
    gate.push_back(x);
  }
  const auto n = static_cast<int64_t>(gate.size());
  const std::vector<float> up = RandomFloats(n, 6);
  std::vector<float> gate_up = gate;
  gate_up.insert(gate_up.end(), up.begin(), up.end());
  const auto out = backend().SiluMul(gate_up, 1, n);
  const auto expected = reference::SiluMul(gate.data(), up.data(), n);
  for (size_t i = 0; i < expected.size(); ++i) {
    // e^88 stands for everything above; what that leaves of x / (1 + e^88) is below 1e-36 |x|.
    const double tolerance = 5 * kEpsilon * std::fabs(expected[i]) + 1e-36 * std::fabs(static_cast<double>(gate[i]));
    EXPECT_NEAR(static_cast<double>(out[i]), expected[i], tolerance * (1 + std::fabs(static_cast<double>(up[i]))))
        << gate[i];
  }
}

TEST_P(ElementwiseTest, SiluMulOfRows) {
  for (const int64_t m : {0, 1, 3}) {
    for (const int64_t n : {1, 15, 16, 301}) {
      const auto gate_up = RandomFloats(2 * m * n, static_cast<uint32_t>(n), 4.0F);
      const auto out = backend().SiluMul(gate_up, m, n);
      ASSERT_EQ(out.size(), static_cast<size_t>(m * n));
      for (int64_t t = 0; t < m; ++t) {
        const float* gate = gate_up.data() + 2 * t * n;
        const auto expected = reference::SiluMul(gate, gate + n, n);
        for (int64_t i = 0; i < n; ++i) {
          const double want = expected[static_cast<size_t>(i)];
          ASSERT_NEAR(static_cast<double>(out[static_cast<size_t>(t * n + i)]), want, 8 * kEpsilon * std::fabs(want));
        }
      }
    }
  }
}

// Far below 0, silu(x) is x e^x to within e^x.
TEST_P(ElementwiseTest, ExponentialIsAccurate) {
  std::vector<float> gate_up;
  for (double x = -86.0; x < -17.0; x += 0.0137) {
    gate_up.push_back(static_cast<float>(x));
  }
  const size_t n = gate_up.size();
  gate_up.resize(2 * n, 1.0F);
  const auto out = backend().SiluMul(gate_up, 1, static_cast<int64_t>(n));
  for (size_t i = 0; i < n; ++i) {
    const auto x = static_cast<double>(gate_up[i]);
    ASSERT_NEAR(static_cast<double>(out[i]) / (x / (1 + std::exp(-x))), 1.0, 8 * kEpsilon) << x;
  }
}

TEST_P(ElementwiseTest, Add) {
  for (const int64_t m : {0, 1, 2}) {
    for (const int64_t n : {1, 15, 16, 17, 257, 576}) {
      const auto x = RandomFloats(m * n, 7);
      const auto y = RandomFloats(m * n, 8);
      auto expected = x;
      std::transform(x.begin(), x.end(), y.begin(), expected.begin(), std::plus<>());
      EXPECT_EQ(backend().Add(x, y, m, n), expected) << m << " x " << n;
    }
  }
}

TEST_P(ElementwiseTest, Embedding) {
  for (const int64_t group : backend().group_sizes()) {
    for (const int64_t cols : {1, 8, 33, 64, 288, 2052}) {
      const RandomMatrix matrix(50, cols, group, 9);
      for (const std::vector<uint32_t>& tokens : {std::vector<uint32_t>{}, {49}, {0, 49, 7, 8, 24, 25, 24}}) {
        const auto out = backend().Embedding(matrix.view(), tokens);
        ASSERT_EQ(out.size(), tokens.size() * static_cast<size_t>(cols));
        for (size_t i = 0; i < out.size(); ++i) {
          const auto col = static_cast<int64_t>(i) % cols;
          const double want = reference::Weight(matrix.view(), 8, tokens[i / static_cast<size_t>(cols)], col);
          ASSERT_NEAR(static_cast<double>(out[i]), want, 8 * kEpsilon * std::fabs(want) + 1e-9)
              << "token " << tokens[i / static_cast<size_t>(cols)] << " column " << col << " of " << cols;
        }
      }
    }
  }
}

// Four tokens of three sequences, the tokens' blocks in any order.
RopeInput MakeRopeInput(int64_t heads, int64_t kv_heads, int64_t head_dim, bool norm, bool bias) {
  constexpr int64_t kPositions = 48;
  RopeInput input;
  input.shape.num_heads = heads;
  input.shape.num_kv_heads = kv_heads;
  input.shape.head_dim = head_dim;
  input.shape.block_tokens = 16;
  input.shape.q_stride = (heads + 2 * kv_heads) * head_dim;
  input.positions = {0, 17, 40, 47};
  input.sequences = {1, 0, 0, 2};
  input.tables = {4, 2, 1, 0, 0, 0, 6, 5, 3};
  input.table_stride = 3;
  input.k.assign(static_cast<size_t>(7 * kv_heads * 16 * head_dim), 0);
  input.v = input.k;
  input.qkv = RandomFloats(4 * input.shape.q_stride, 1);
  if (bias) {
    input.bias = RandomFloats(input.shape.q_stride, 2);
  }
  if (norm) {
    input.q_norm = RandomFloats(head_dim, 3);
    input.k_norm = RandomFloats(head_dim, 4);
  }
  for (int64_t position = 0; position < kPositions; ++position) {
    for (int64_t i = 0; i < head_dim / 2; ++i) {
      const double angle = static_cast<double>(position) *
                           std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
      input.cos.push_back(static_cast<float>(std::cos(angle)));
      input.sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return input;
}

// Head `head` of q, k and v together, of one row.
std::vector<double> RotatedHead(const RopeInput& input, int64_t row, int64_t head) {
  const AttentionShape& shape = input.shape;
  const int64_t d = shape.head_dim;
  const auto begin = input.qkv.begin() + row * shape.q_stride + head * d;
  std::vector<float> x(begin, begin + d);
  for (size_t i = 0; !input.bias.empty() && i < x.size(); ++i) {
    x[i] += input.bias[static_cast<size_t>(head * d) + i];
  }
  if (head >= shape.num_heads + shape.num_kv_heads) {
    return {x.begin(), x.end()};
  }
  if (!input.q_norm.empty()) {
    const auto& weight = head < shape.num_heads ? input.q_norm : input.k_norm;
    const auto normed = reference::RmsNorm(x.data(), weight.data(), d, static_cast<double>(input.norm_eps));
    x.assign(normed.begin(), normed.end());
  }
  const int64_t angles = input.positions[static_cast<size_t>(row)] * (d / 2);
  return reference::Rope(x.data(), 1, d, input.cos.data() + angles, input.sin.data() + angles);
}

void ExpectHead(const std::vector<double>& got, const std::vector<double>& want, double error) {
  const double largest = LargestMagnitude(want);
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], error * (largest + std::fabs(want[i]))) << "element " << i;
  }
}

class RopeTest : public testing::BackendTest {
 protected:
  void ExpectMatches(const RopeInput& input) {
    const AttentionShape& shape = input.shape;
    const int64_t d = shape.head_dim;
    SCOPED_TRACE(::testing::Message() << shape.num_heads << " heads, " << shape.num_kv_heads << " kv heads of " << d
                                      << ", norm " << !input.q_norm.empty() << ", bias " << !input.bias.empty());
    const RopeOutput out = backend().RopeAndStore(input);
    auto k = out.k;
    auto v = out.v;
    for (int64_t row = 0; row < static_cast<int64_t>(input.positions.size()); ++row) {
      for (int64_t head = 0; head < shape.num_heads; ++head) {
        const auto begin = out.q.begin() + (row * shape.num_heads + head) * d;
        ExpectHead({begin, begin + d}, RotatedHead(input, row, head), 9 * kEpsilon);
      }
      const int64_t position = input.positions[static_cast<size_t>(row)];
      const int64_t block = input.tables[static_cast<size_t>(
          input.sequences[static_cast<size_t>(row)] * input.table_stride + position / shape.block_tokens)];
      for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
        const int64_t at = ((block * shape.num_kv_heads + head) * shape.block_tokens + position % 16) * d;
        ExpectHead(TakeHead(k, at, d), RotatedHead(input, row, shape.num_heads + head), 0x1p-11 + 9 * kEpsilon);
        const auto values = RotatedHead(input, row, shape.num_heads + shape.num_kv_heads + head);
        const auto stored = TakeHead(v, at, d);
        for (size_t i = 0; i < stored.size(); ++i) {
          ASSERT_EQ(stored[i], reference::HalfToDouble(reference::DoubleToHalf(values[i]))) << values[i];
        }
      }
    }
    EXPECT_EQ(k, std::vector<uint16_t>(k.size(), 0)) << "keys where none belong";
    EXPECT_EQ(v, std::vector<uint16_t>(v.size(), 0)) << "values where none belong";
  }

 private:
  // Values of a head of a cache, which is set to zero there.
  static std::vector<double> TakeHead(std::vector<uint16_t>& cache, int64_t at, int64_t head_dim) {
    std::vector<double> head;
    for (int64_t i = at; i < at + head_dim; ++i) {
      head.push_back(reference::HalfToDouble(cache[static_cast<size_t>(i)]));
      cache[static_cast<size_t>(i)] = 0;
    }
    return head;
  }
};

TEST_P(RopeTest, RotatesQueriesAndStoresKeysAndValues) {
  for (const int64_t head_dim : {2, 6, 8, 32, 64, 80, 100, 128, 256}) {
    ExpectMatches(MakeRopeInput(4, 2, head_dim, false, false));
    ExpectMatches(MakeRopeInput(3, 1, head_dim, true, false));
    ExpectMatches(MakeRopeInput(2, 2, head_dim, true, true));
    ExpectMatches(MakeRopeInput(5, 1, head_dim, false, true));
  }
}

TEST_P(RopeTest, StoresHalvesRoundedToNearestEven) {
  RopeInput input = MakeRopeInput(1, 1, 8, false, false);
  const std::vector<float> values = {1.0F + 0x1p-11F,    // a tie, down to even
                                     1.0F + 0x1.8p-10F,  // a tie, up to even
                                     0x1p-25F,           // half of the smallest subnormal: a tie, to zero
                                     -0x1.8p-24F,        // a tie among subnormals
                                     65504.0F,
                                     -0x1.fffp-15F,  // the largest subnormal rounds up to the smallest normal
                                     0.0F,
                                     -3.0F};
  std::copy(values.begin(), values.end(), input.qkv.begin() + 16);
  ExpectMatches(input);
}

FLEXQUANT_INSTANTIATE_BACKEND_TEST(ElementwiseTest, /*for_products=*/false);
FLEXQUANT_INSTANTIATE_BACKEND_TEST(RopeTest, /*for_products=*/false);

}  // namespace
}  // namespace flexquant
