#ifndef FLEXQUANT_TESTS_KERNELS_PAGED_CACHE_H_
#define FLEXQUANT_TESTS_KERNELS_PAGED_CACHE_H_

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace flexquant::testing {

// Rows of q and out lie next to each other; scale 1 / sqrt(head_dim).
AttentionShape MakeAttentionShape(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t block_tokens,
                                  int64_t window);

// [..., rows, cols] to [..., cols, rows]: how the CPU's kernels have keys, whose rows are positions here.
std::vector<uint16_t> ExchangeLastTwo(const std::vector<uint16_t>& from, int64_t rows, int64_t cols);
// [blocks, heads, elements] to [heads, blocks, elements]: how they have both keys and values.
std::vector<uint16_t> HeadsFirst(const std::vector<uint16_t>& from, int64_t heads, int64_t elements);

// Keys and values of one layer of sequences of `lengths` tokens, normal values in shuffled blocks; what no position
// uses holds NaN.
class PagedCache {
 public:
  PagedCache(const AttentionShape& shape, const std::vector<int64_t>& lengths, uint32_t seed, float deviation = 1.0F);

  int64_t table_stride() const { return stride_; }
  const std::vector<uint32_t>& tables() const { return tables_; }  // [sequences, table_stride]
  const uint32_t* table(size_t sequence) const { return tables_.data() + sequence * static_cast<size_t>(stride_); }
  const std::vector<uint16_t>& k() const { return k_; }  // [blocks, num_kv_heads, block_tokens, head_dim]
  const std::vector<uint16_t>& v() const { return v_; }
  // The same cache with this sequence's table alone.
  PagedCache Only(size_t sequence) const;
  // The same tables over other contents.
  PagedCache With(std::vector<uint16_t> k, std::vector<uint16_t> v) const;

 private:
  int64_t stride_ = 1;
  std::vector<uint32_t> tables_;
  std::vector<uint16_t> k_;
  std::vector<uint16_t> v_;
};

// A cache as the CPU's kernels have it, and its shape for them.
struct CpuCache {
  CpuCache(const AttentionShape& shape, const PagedCache& cache);

  AttentionShape shape;
  std::vector<uint16_t> k;  // [num_kv_heads, num_blocks, head_dim, block_tokens]
  std::vector<uint16_t> v;  // [num_kv_heads, num_blocks, block_tokens, head_dim]
};

}  // namespace flexquant::testing

#endif  // FLEXQUANT_TESTS_KERNELS_PAGED_CACHE_H_
