#ifndef FLEXQUANT_TESTS_KERNELS_CUDA_PAGED_CACHE_H_
#define FLEXQUANT_TESTS_KERNELS_CUDA_PAGED_CACHE_H_

// Sequences over a paged cache, for tests of attention.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/reference/reference.h"

namespace flexquant::cuda::testing {

struct Model {
  int heads;
  int kv_heads;
  int head_dim;
  int block_tokens;
  int window;
};

// Sequences of `lengths` tokens over one paged cache with shuffled blocks; what no position uses holds NaN.
struct Sequences {
  Sequences(const Model& model, const std::vector<int>& lengths, uint32_t seed) {
    int blocks = 1;
    for (const int length : lengths) {
      stride = std::max<int64_t>(stride, CeilDiv(length, model.block_tokens));
      blocks += static_cast<int>(CeilDiv(length, model.block_tokens));
    }
    std::vector<uint32_t> order(static_cast<size_t>(blocks - 1));
    std::iota(order.begin(), order.end(), 1U);
    std::mt19937 random(seed);
    std::shuffle(order.begin(), order.end(), random);
    tables.assign(lengths.size() * static_cast<size_t>(stride), 0);
    const int64_t row = static_cast<int64_t>(model.block_tokens) * model.head_dim;
    k.assign(static_cast<size_t>(blocks * model.kv_heads * row), 0x7E00);
    v = k;
    std::normal_distribution<float> normal;
    size_t next = 0;
    for (size_t s = 0; s < lengths.size(); ++s) {
      for (int p = 0; p < lengths[s]; ++p) {
        uint32_t& block = tables[s * static_cast<size_t>(stride) + static_cast<size_t>(p / model.block_tokens)];
        if (p % model.block_tokens == 0) {
          block = order[next++];
        }
        for (int head = 0; head < model.kv_heads; ++head) {
          const int64_t at = (block * model.kv_heads + head) * row + p % model.block_tokens * model.head_dim;
          for (int d = 0; d < model.head_dim; ++d) {
            k[static_cast<size_t>(at + d)] = reference::DoubleToHalf(static_cast<double>(normal(random)));
            v[static_cast<size_t>(at + d)] = reference::DoubleToHalf(static_cast<double>(normal(random)));
          }
        }
      }
    }
  }
  int64_t stride = 1;
  std::vector<uint32_t> tables;
  std::vector<uint16_t> k;
  std::vector<uint16_t> v;
};

inline AttentionShape ShapeOf(const Model& m) {
  return {m.heads,  m.kv_heads,           m.head_dim,           m.block_tokens,
          m.window, m.heads * m.head_dim, m.heads * m.head_dim, 1.0F / std::sqrt(static_cast<float>(m.head_dim))};
}

template <class Params>
void SetShape(const Model& m, Params& p) {
  p.num_heads = m.heads;
  p.num_kv_heads = m.kv_heads;
  p.head_dim = m.head_dim;
  p.block_tokens = m.block_tokens;
  p.sliding_window = m.window;
  p.scale = 1.0F / std::sqrt(static_cast<float>(m.head_dim));
  p.q_stride = p.out_stride = m.heads * m.head_dim;
}

// Relative to the norm of the whole output.
inline double Error(const std::vector<float>& got, const std::vector<double>& want) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - want[i], 2);
    norm += want[i] * want[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace flexquant::cuda::testing

#endif  // FLEXQUANT_TESTS_KERNELS_CUDA_PAGED_CACHE_H_
