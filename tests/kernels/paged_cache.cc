#include "tests/kernels/paged_cache.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

#include "common/half.h"
#include "common/nested_matrix.h"

namespace flexquant::testing {

AttentionShape MakeAttentionShape(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t block_tokens,
                                  int64_t window) {
  return {heads,  kv_heads,         head_dim,         block_tokens,
          window, heads * head_dim, heads * head_dim, 1.0F / std::sqrt(static_cast<float>(head_dim))};
}

std::vector<uint16_t> ExchangeLastTwo(const std::vector<uint16_t>& from, int64_t rows, int64_t cols) {
  std::vector<uint16_t> to(from.size());
  for (size_t i = 0; i < from.size(); ++i) {
    const auto in_matrix = static_cast<int64_t>(i) % (rows * cols);
    const int64_t place = in_matrix % cols * rows + in_matrix / cols;
    to[i - static_cast<size_t>(in_matrix) + static_cast<size_t>(place)] = from[i];
  }
  return to;
}

std::vector<uint16_t> HeadsFirst(const std::vector<uint16_t>& from, int64_t heads, int64_t elements) {
  const int64_t parts = static_cast<int64_t>(from.size()) / elements;
  std::vector<uint16_t> to(from.size());
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t place = part % heads * (parts / heads) + part / heads;
    std::copy_n(from.begin() + part * elements, elements, to.begin() + place * elements);
  }
  return to;
}

PagedCache::PagedCache(const AttentionShape& shape, const std::vector<int64_t>& lengths, uint32_t seed,
                       float deviation) {
  int64_t blocks = 1;
  for (const int64_t length : lengths) {
    stride_ = std::max(stride_, CeilDiv(length, shape.block_tokens));
    blocks += CeilDiv(length, shape.block_tokens);
  }
  std::vector<uint32_t> order(static_cast<size_t>(blocks - 1));
  std::iota(order.begin(), order.end(), 1U);
  std::mt19937 random(seed);
  std::shuffle(order.begin(), order.end(), random);
  tables_.assign(lengths.size() * static_cast<size_t>(stride_), 0);
  const int64_t head_elements = shape.block_tokens * shape.head_dim;
  k_.assign(static_cast<size_t>(blocks * shape.num_kv_heads * head_elements), 0x7E00);
  v_ = k_;
  std::normal_distribution<float> normal(0.0F, deviation);
  size_t next = 0;
  for (size_t s = 0; s < lengths.size(); ++s) {
    for (int64_t p = 0; p < lengths[s]; ++p) {
      uint32_t& block = tables_[s * static_cast<size_t>(stride_) + static_cast<size_t>(p / shape.block_tokens)];
      if (p % shape.block_tokens == 0) {
        block = order[next++];
      }
      for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
        const int64_t at = (static_cast<int64_t>(block) * shape.num_kv_heads + head) * head_elements +
                           p % shape.block_tokens * shape.head_dim;
        for (int64_t d = 0; d < shape.head_dim; ++d) {
          k_[static_cast<size_t>(at + d)] = FloatToHalf(normal(random));
          v_[static_cast<size_t>(at + d)] = FloatToHalf(normal(random));
        }
      }
    }
  }
}

PagedCache PagedCache::Only(size_t sequence) const {
  PagedCache one = *this;
  one.tables_.assign(table(sequence), table(sequence) + stride_);
  return one;
}

PagedCache PagedCache::With(std::vector<uint16_t> k, std::vector<uint16_t> v) const {
  PagedCache other = *this;
  other.k_ = std::move(k);
  other.v_ = std::move(v);
  return other;
}

CpuCache::CpuCache(const AttentionShape& of, const PagedCache& cache) : shape(of) {
  const int64_t elements = shape.block_tokens * shape.head_dim;
  shape.num_blocks = static_cast<int64_t>(cache.k().size()) / (shape.num_kv_heads * elements);
  k = HeadsFirst(ExchangeLastTwo(cache.k(), shape.block_tokens, shape.head_dim), shape.num_kv_heads, elements);
  v = HeadsFirst(cache.v(), shape.num_kv_heads, elements);
}

}  // namespace flexquant::testing
