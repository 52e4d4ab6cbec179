#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "common/half.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/rope_kv.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda/device_buffer.h"
#include "tests/kernels/test_matrix.h"

namespace flexquant::cuda {
namespace {

using flexquant::testing::RandomFloats;
using testing::DeviceBuffer;

class RowOpsTest : public testing::DeviceTest {};

void ExpectNear(const float* got, const std::vector<double>& want, double relative) {
  double norm = 0;
  for (const double x : want) {
    norm = std::max(norm, std::fabs(x));
  }
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(got[i]), want[i], relative * (norm + std::fabs(want[i]))) << i;
  }
}

// Half outputs times their row's scale.
std::vector<float> Restore(const std::vector<uint16_t>& half, const std::vector<float>& scale, int64_t cols) {
  std::vector<float> values;
  for (size_t i = 0; i < half.size(); ++i) {
    values.push_back(static_cast<float>(reference::HalfToDouble(half[i])) * scale[i / static_cast<size_t>(cols)]);
  }
  return values;
}

TEST_F(RowOpsTest, RmsNorm) {
  for (const int64_t n : {1, 7, 64, 288, 4096, 11008}) {
    const int rows = 3;
    const auto x = RandomFloats(rows * n, 1, 3.0F);
    const auto weight = RandomFloats(n, 2);
    const DeviceBuffer<float> d_x(x);
    const DeviceBuffer<float> d_weight(weight);
    const DeviceBuffer<float> y(x.size());
    const DeviceBuffer<uint16_t> half(x.size());
    const DeviceBuffer<float> scale(rows);
    const DeviceBuffer<int32_t> num_rows(std::vector<int32_t>{2});
    RmsNormParams p;
    p.x = d_x.data();
    p.x_stride = n;
    p.weight = d_weight.data();
    p.eps = 1e-5F;
    p.cols = n;
    p.out = {y.data(), nullptr, nullptr, n};
    p.num_rows = num_rows.data();
    p.max_rows = rows;
    ASSERT_EQ(LaunchRmsNorm(p, nullptr), cudaSuccess);
    p.out = {nullptr, half.data(), scale.data(), n};
    ASSERT_EQ(LaunchRmsNorm(p, nullptr), cudaSuccess);
    const auto got = y.Download();
    const auto halves = Restore(half.Download(), scale.Download(), n);
    for (int row = 0; row < 2; ++row) {
      const auto want = reference::RmsNorm(x.data() + row * n, weight.data(), n, 1e-5);
      ExpectNear(got.data() + row * n, want, 1e-6);
      ExpectNear(halves.data() + row * n, want, 0x1p-11);
    }
    EXPECT_EQ(got[static_cast<size_t>(2 * n)], 0.0F) << "rows past the count must be left alone";
  }
}

TEST_F(RowOpsTest, SiluMulWithBias) {
  const int64_t n = 301;
  const auto x = RandomFloats(2 * 2 * n, 1, 4.0F);
  const auto bias = RandomFloats(2 * n, 2);
  const DeviceBuffer<float> d_x(x);
  const DeviceBuffer<float> d_bias(bias);
  const DeviceBuffer<float> y(static_cast<size_t>(2 * n));
  SiluMulParams p;
  p.gate_up = d_x.data();
  p.stride = 2 * n;
  p.cols = n;
  p.out = {y.data(), nullptr, nullptr, n};
  p.max_rows = 2;
  for (const bool with_bias : {false, true}) {
    p.bias = with_bias ? d_bias.data() : nullptr;
    ASSERT_EQ(LaunchSiluMul(p, nullptr), cudaSuccess);
    const auto got = y.Download();
    for (int64_t row = 0; row < 2; ++row) {
      std::vector<float> in(x.begin() + row * 2 * n, x.begin() + (row + 1) * 2 * n);
      for (size_t i = 0; with_bias && i < in.size(); ++i) {
        in[i] += bias[i];
      }
      ExpectNear(got.data() + row * n, reference::SiluMul(in.data(), in.data() + n, n), 1e-6);
    }
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
  const DeviceBuffer<uint16_t> half(x.size());
  const DeviceBuffer<float> scale(sizes.size());
  ConvertParams p;
  p.x = d_x.data();
  p.x_stride = n;
  p.cols = n;
  p.out = {nullptr, half.data(), scale.data(), n};
  p.max_rows = rows;
  ASSERT_EQ(LaunchConvert(p, nullptr), cudaSuccess);
  const auto got = Restore(half.Download(), scale.Download(), n);
  for (int row = 0; row < rows; ++row) {
    const std::vector<double> want(x.begin() + row * n, x.begin() + (row + 1) * n);
    ExpectNear(got.data() + row * n, want, 0x1p-11);
  }
  EXPECT_EQ(scale.Download()[0], 1.0F);
  // Dividing and multiplying by the scales gives the values back.
  ScaleRowsParams s;
  s.x = d_x.data();
  s.stride = n;
  s.row_scale = scale.data();
  s.inverse = true;
  s.cols = n;
  s.max_rows = 5;
  ASSERT_EQ(LaunchScaleRows(s, nullptr), cudaSuccess);
  s.inverse = false;
  ASSERT_EQ(LaunchScaleRows(s, nullptr), cudaSuccess);
  EXPECT_EQ(d_x.Download(), x);
}

TEST_F(RowOpsTest, Add) {
  const int64_t n = 257;
  const auto x = RandomFloats(2 * n, 1);
  const auto y = RandomFloats(2 * n, 2);
  const auto bias = RandomFloats(n, 3);
  const DeviceBuffer<float> d_x(x);
  const DeviceBuffer<float> d_y(y);
  const DeviceBuffer<float> d_bias(bias);
  AddParams p;
  p.x = d_x.data();
  p.stride = n;
  p.y = d_y.data();
  p.y_stride = n;
  p.bias = d_bias.data();
  p.cols = n;
  p.max_rows = 2;
  ASSERT_EQ(LaunchAdd(p, nullptr), cudaSuccess);
  const auto got = d_x.Download();
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i], x[i] + y[i] + bias[i % static_cast<size_t>(n)]);
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

struct RopeCase {
  int heads;
  int kv_heads;
  int head_dim;
  bool norm;
  bool bias;
};

void CheckRopeKv(const RopeCase& c) {
  const int rows = 4;
  const int block_tokens = 16;
  const int64_t d = c.head_dim;
  const int64_t stride = (c.heads + 2 * c.kv_heads) * d;
  const std::vector<int32_t> positions = {0, 17, 40, -1};
  const std::vector<int32_t> sequence_of = {1, 0, 0, 0};
  const std::vector<uint32_t> tables = {4, 2, 1, 0, 3, 0};
  auto x = RandomFloats(rows * stride, 1);
  const auto bias = RandomFloats(stride, 2);
  const auto q_norm = RandomFloats(d, 3);
  const auto k_norm = RandomFloats(d, 4);
  std::vector<double> frequencies;
  for (int64_t i = 0; i < d / 2; ++i) {
    frequencies.push_back(std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(d)));
  }
  const DeviceBuffer<double> d_frequencies(frequencies);
  const DeviceBuffer<float2> table(static_cast<size_t>(64 * d / 2));
  ASSERT_EQ(LaunchRopeTable(d_frequencies.data(), static_cast<int>(d / 2), 64, table.data(), nullptr), cudaSuccess);
  const DeviceBuffer<float> d_x(x);
  const DeviceBuffer<float> d_bias(bias);
  const DeviceBuffer<float> d_q_norm(q_norm);
  const DeviceBuffer<float> d_k_norm(k_norm);
  const DeviceBuffer<int32_t> d_positions(positions);
  const DeviceBuffer<int32_t> d_sequence_of(sequence_of);
  const DeviceBuffer<uint32_t> d_tables(tables);
  const size_t cache_size = static_cast<size_t>(5 * c.kv_heads * block_tokens * d);
  const DeviceBuffer<uint16_t> k(cache_size);
  const DeviceBuffer<uint16_t> v(cache_size);
  RopeKvParams p;
  p.num_heads = c.heads;
  p.num_kv_heads = c.kv_heads;
  p.head_dim = c.head_dim;
  p.block_tokens = block_tokens;
  p.qkv = d_x.data();
  p.stride = stride;
  p.bias = c.bias ? d_bias.data() : nullptr;
  p.q_norm = c.norm ? d_q_norm.data() : nullptr;
  p.k_norm = c.norm ? d_k_norm.data() : nullptr;
  p.norm_eps = 1e-6F;
  p.rope = table.data();
  p.positions = d_positions.data();
  p.sequence_of = d_sequence_of.data();
  p.block_tables = d_tables.data();
  p.block_table_stride = 3;
  p.k_cache = k.data();
  p.v_cache = v.data();
  p.max_rows = rows;
  ASSERT_EQ(LaunchRopeKv(p, nullptr), cudaSuccess);
  const auto got = d_x.Download();
  const auto keys = k.Download();
  const auto values = v.Download();
  for (int row = 0; row < 3; ++row) {
    const int position = positions[static_cast<size_t>(row)];
    std::vector<float> cos;
    std::vector<float> sin;
    for (const double frequency : frequencies) {
      cos.push_back(static_cast<float>(std::cos(position * frequency)));
      sin.push_back(static_cast<float>(std::sin(position * frequency)));
    }
    for (int64_t head = 0; head < c.heads + 2 * c.kv_heads; ++head) {
      std::vector<float> in(x.begin() + row * stride + head * d, x.begin() + row * stride + (head + 1) * d);
      for (size_t i = 0; c.bias && i < in.size(); ++i) {
        in[i] += bias[static_cast<size_t>(head * d) + i];
      }
      const bool is_value = head >= c.heads + c.kv_heads;
      if (c.norm && !is_value) {
        const auto normed = reference::RmsNorm(in.data(), (head < c.heads ? q_norm : k_norm).data(), d, 1e-6);
        in.assign(normed.begin(), normed.end());
      }
      std::vector<double> want(in.begin(), in.end());
      if (!is_value) {
        want = reference::Rope(in.data(), 1, d, cos.data(), sin.data());
      }
      if (head < c.heads) {
        ExpectNear(got.data() + row * stride + head * d, want, 1e-6);
        continue;
      }
      const int64_t kv_head = head - c.heads - (is_value ? c.kv_heads : 0);
      const int64_t block = tables[static_cast<size_t>(sequence_of[static_cast<size_t>(row)] * 3 + position / 16)];
      const int64_t at = ((block * c.kv_heads + kv_head) * block_tokens + position % 16) * d;
      std::vector<float> stored;
      for (int64_t i = 0; i < d; ++i) {
        stored.push_back(HalfToFloat((is_value ? values : keys)[static_cast<size_t>(at + i)]));
      }
      ExpectNear(stored.data(), want, 0x1p-11);
    }
  }
  EXPECT_TRUE(std::equal(x.begin() + 3 * stride, x.end(), got.begin() + 3 * stride));
  // Nothing else was written: three rows of each cache.
  const auto written = std::count_if(keys.begin(), keys.end(), [](uint16_t half) { return half != 0; });
  EXPECT_LE(written, 3 * c.kv_heads * d);
}

TEST_F(RowOpsTest, RopeKv) {
  for (const int head_dim : {8, 64, 80, 128, 256}) {
    CheckRopeKv({4, 2, head_dim, false, false});
    CheckRopeKv({3, 1, head_dim, true, false});
    CheckRopeKv({2, 2, head_dim, true, true});
    CheckRopeKv({5, 1, head_dim, false, true});
  }
}

}  // namespace
}  // namespace flexquant::cuda
