#ifndef FLEXQUANT_KERNELS_CPU_ATTENTION_H_
#define FLEXQUANT_KERNELS_CPU_ATTENTION_H_

// Attention over keys and values in fp16. Many rows share one conversion of a tile to fp32; few read the cache's halves
// where they are. A row's arithmetic is the same in both and depends only on its own query and visible positions:
// hidden keys enter with weight exactly 0, hidden tiles are skipped.

#include <cstdint>

#include "kernels/cpu/attention_rows.h"
#include "kernels/cpu/attention_workspace.h"
#include "kernels/cpu/exp.h"
#include "kernels/kernels.h"

namespace flexquant {

inline constexpr int64_t kSlabs = kKeyTile / kSlabKeys;
inline constexpr int64_t kLine = 64 / sizeof(uint16_t);
static_assert(kSlabs == 2);
// So many rows at most read halves: each would convert the tile again.
inline constexpr int64_t kFewRows = 4;

template <class F32>
class AttentionBlock : AttentionRows<F32, kKeyTile> {
  using Rows = AttentionRows<F32, kKeyTile>;

 public:
  AttentionBlock(const AttentionShape& shape, const AttentionSequence& sequence, const uint16_t* k_cache,
                 const uint16_t* v_cache, float* workspace)
      : Rows(shape, sequence, workspace), k_cache_(k_cache), v_cache_(v_cache) {
    keys_ = Rows::rest_;
    values_ = keys_ + kKeyTile * padded_;
    gathered_ = reinterpret_cast<uint16_t*>(values_ + kKeyTile * padded_);
  }

  // Heads [head, head + heads) of one KV head, query tokens [token, token + tokens); heads * tokens <= kAttentionRows.
  void Run(int64_t head, int64_t heads, int64_t token, int64_t tokens) {
    Rows::Place(head, heads, token, tokens);
    Rows::Start();
    converts_ = rows_ > kFewRows || padded_ != head_dim_;
    const int64_t kv_head = head / (shape_.num_heads / shape_.num_kv_heads);
    const int64_t first = Rows::FirstVisible(sequence_.start + token);
    const int64_t last = sequence_.start + token + tokens - 1;
    for (int64_t tile = first / kKeyTile * kKeyTile; tile <= last; tile += kKeyTile) {
      const int64_t begin = first > tile ? first - tile : 0;
      const int64_t end = last + 1 - tile < kKeyTile ? last + 1 - tile : kKeyTile;
      FindTile(kv_head, tile, begin, end);
      FindNext(kv_head, tile + kKeyTile, first, last);
      if (converts_) {
        ConvertTile(begin, end);
      }
      Rows::ForRows([&](auto count, int64_t row) { Scores<count.value>(row); });
      for (int64_t row = 0; row < rows_; ++row) {
        Softmax(row, tile);
      }
      Rows::ForRows([&](auto count, int64_t row) { AddValues<count.value>(row, begin, end); });
    }
    for (int64_t row = 0; row < rows_; ++row) {
      WriteOutput<F32>(outputs_ + row * padded_, sums_[row], head_dim_, Rows::Output(row));
    }
  }

 private:
  using Rows::head_dim_;
  using Rows::maxima_;
  using Rows::outputs_;
  using Rows::padded_;
  using Rows::rows_;
  using Rows::scores_;
  using Rows::sequence_;
  using Rows::shape_;
  using Rows::sums_;

  int64_t HeadOffset(int64_t kv_head, int64_t position) const {
    const auto block = static_cast<int64_t>(sequence_.block_table[position / shape_.block_tokens]);
    return (kv_head * shape_.num_blocks + block) * shape_.block_tokens * head_dim_;
  }

  // Where the slabs of the next tile are, which few rows fetch a line at a time between their arithmetic: a burst of
  // fetches would hold it up. Behind a single query's last key that is the next KV head's first tile; where nothing
  // follows, and where blocks are not slabs, this tile, which costs nothing.
  void FindNext(int64_t kv_head, int64_t tile, int64_t first, int64_t last) {
    if (tile > last && sequence_.num_tokens == 1 && kv_head + 1 < shape_.num_kv_heads) {
      ++kv_head;
      tile = first / kKeyTile * kKeyTile;
    }
    for (int64_t slab = 0; slab < kSlabs; ++slab) {
      const int64_t position = tile + slab * kSlabKeys;
      const bool there = shape_.block_tokens == kSlabKeys && position + kSlabKeys > first && position <= last;
      const int64_t head = there ? HeadOffset(kv_head, position) : 0;
      next_keys_[slab] = there ? k_cache_ + head : slabs_[slab];
      next_values_[slab] = there ? v_cache_ + head : slabs_[slab];
    }
  }

  // Where the tile's visible keys and values are. Positions before `begin` and from `end` on are not looked up: their
  // blocks may be gone or not there yet.
  void FindTile(int64_t kv_head, int64_t tile, int64_t begin, int64_t end) {
    for (int64_t key = begin; key < end;) {
      const int64_t in_block = (tile + key) % shape_.block_tokens;
      const uint16_t* row = v_cache_ + HeadOffset(kv_head, tile + key) + in_block * head_dim_;
      const int64_t left = key + shape_.block_tokens - in_block;
      for (const int64_t block_end = left < end ? left : end; key < block_end; ++key) {
        value_rows_[key] = row;
        row += head_dim_;
      }
    }
    const uint16_t* visible = nullptr;
    for (int64_t slab = 0; slab < kSlabs; ++slab) {
      const int64_t first = slab * kSlabKeys > begin ? slab * kSlabKeys : begin;
      const int64_t last = (slab + 1) * kSlabKeys < end ? (slab + 1) * kSlabKeys : end;
      if (first >= last) {
        slabs_[slab] = nullptr;
      } else if (shape_.block_tokens % kSlabKeys == 0) {
        const int64_t position = tile + slab * kSlabKeys;
        slabs_[slab] = k_cache_ + HeadOffset(kv_head, position) + position % shape_.block_tokens;
        slab_stride_ = shape_.block_tokens;
      } else {
        uint16_t* to = gathered_ + slab * kSlabKeys * padded_;
        for (int64_t key = first; key < last; ++key) {
          const int64_t position = tile + key;
          const uint16_t* from = k_cache_ + HeadOffset(kv_head, position) + position % shape_.block_tokens;
          for (int64_t d = 0; d < head_dim_; ++d) {
            to[d * kSlabKeys + key - slab * kSlabKeys] = from[d * shape_.block_tokens];
          }
        }
        slabs_[slab] = to;
        slab_stride_ = kSlabKeys;
      }
      visible = slabs_[slab] != nullptr ? slabs_[slab] : visible;
    }
    // Anything may be read in place of what nobody sees.
    for (const uint16_t*& slab : slabs_) {
      slab = slab != nullptr ? slab : visible;
    }
  }

  // Into keys_ and values_; what is not visible is left as it is.
  void ConvertTile(int64_t begin, int64_t end) {
    for (int64_t slab = 0; slab < kSlabs; ++slab) {
      for (int64_t d = 0; d < head_dim_; ++d) {
        for (int64_t key = 0; key < kSlabKeys; key += F32::kLanes) {
          F32::LoadHalf(slabs_[slab] + d * slab_stride_ + key).Store(keys_ + d * kKeyTile + slab * kSlabKeys + key);
        }
      }
    }
    for (int64_t key = begin; key < end; ++key) {
      LoadValues(value_rows_[key], values_ + key * padded_);
    }
  }

  void LoadValues(const uint16_t* from, float* to) {
    int64_t d = 0;
    for (; d + F32::kLanes <= head_dim_; d += F32::kLanes) {
      F32::LoadHalf(from + d).Store(to + d);
    }
    if (d < head_dim_) {
      F32::LoadHalfN(from + d, head_dim_ - d).Store(to + d);
    }
  }

  template <int kRows>
  void Scores(int64_t row) {
    if (converts_) {
      ScoresOf<kRows>(row, [&](int64_t d, int64_t key) { return F32::Load(keys_ + d * kKeyTile + key); });
    } else {
      const uint16_t* const slabs[] = {slabs_[0], slabs_[1]};
      const int64_t stride = slab_stride_;
      // A line of a slab is two dimensions: half of them fetch the first of the next slabs.
      const uint16_t* const next = next_keys_[0];
      const int64_t half = (head_dim_ + 1) / 2;
      const int64_t to_second = next_keys_[1] - next - half * kLine;
      ScoresOf<kRows>(row, [&](int64_t d, int64_t key) {
        __builtin_prefetch(next + d * kLine + (d < half ? 0 : to_second), 0, 2);
        return F32::LoadHalf(slabs[key / kSlabKeys] + d * stride + key % kSlabKeys);
      });
    }
  }

  // `load(d, key)` gives dimension d of the keys from `key` on. Of keys that are not visible the score is anything.
  template <int kRows, class Load>
  void ScoresOf(int64_t row, Load load) {
    // With one vector a row the sums would wait for each other. Here and below: unless told, GCC unrolls too late to
    // keep them in registers.
    constexpr int kVectors = static_cast<int>(kSlabKeys > 2 * F32::kLanes ? kSlabKeys / F32::kLanes : 2);
    const float* q[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      q[r] = Rows::Query(row + r);
    }
    for (int64_t key = 0; key < kKeyTile; key += kVectors * F32::kLanes) {
      F32 dots[kRows][kVectors];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int i = 0; i < kVectors; ++i) {
          dots[r][i] = F32::Set(0.0F);
        }
      }
      for (int64_t d = 0; d < head_dim_; ++d) {
        F32 k[kVectors];
#pragma GCC unroll 8
        for (int i = 0; i < kVectors; ++i) {
          k[i] = load(d, key + i * F32::kLanes);
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const F32 x = F32::Set(q[r][d]);
#pragma GCC unroll 8
          for (int i = 0; i < kVectors; ++i) {
            dots[r][i] = Fma(x, k[i], dots[r][i]);
          }
        }
      }
      const F32 scale = F32::Set(shape_.scale);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int i = 0; i < kVectors; ++i) {
          (dots[r][i] * scale).Store(scores_ + (row + r) * kKeyTile + key + i * F32::kLanes);
        }
      }
    }
  }

  // Scores to weights.
  void Softmax(int64_t row, int64_t tile) {
    float* scores = scores_ + row * kKeyTile;
    if (!Rows::HideScores(row, tile)) {
      __builtin_memset(scores, 0, kKeyTile * sizeof(float));
      return;
    }
    F32 max = F32::Set(maxima_[row]);
    for (int64_t key = 0; key < kKeyTile; key += F32::kLanes) {
      max = Max(max, F32::Load(scores + key));
    }
    max = F32::Set(Rows::Raise(row, ReduceMax(max)));
    F32 sum = F32::Set(0.0F);
    for (int64_t key = 0; key < kKeyTile; key += F32::kLanes) {
      const F32 weight = Exp(F32::Load(scores + key) - max);
      weight.Store(scores + key);
      sum = sum + weight;
    }
    sums_[row] += ReduceAdd(sum);
  }

  template <int kRows>
  void AddValues(int64_t row, int64_t begin, int64_t end) {
    if (converts_) {
      AddValuesOf<kRows, true>(row, begin, end);
    } else {
      AddValuesOf<kRows, false>(row, begin, end);
    }
  }

  template <int kRows, bool kConverted>
  void AddValuesOf(int64_t row, int64_t begin, int64_t end) {
    constexpr int kVectors = F32::kLanes == 16 ? 4 : 2;
    int64_t d = 0;
    for (; d + kVectors * F32::kLanes <= padded_; d += kVectors * F32::kLanes) {
      AddValuesAt<kRows, kVectors, kConverted>(row, begin, end, d);
    }
    for (; d < padded_; d += F32::kLanes) {
      AddValuesAt<kRows, 1, kConverted>(row, begin, end, d);
    }
  }

  template <int kRows, int kVectors, bool kConverted>
  void AddValuesAt(int64_t row, int64_t begin, int64_t end, int64_t d) {
    F32 sums[kRows][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; ++i) {
        sums[r][i] = F32::Load(outputs_ + (row + r) * padded_ + d + i * F32::kLanes);
      }
    }
    for (int64_t key = begin; key < end; ++key) {
      F32 v[kVectors];
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; ++i) {
        v[i] = kConverted ? F32::Load(values_ + key * padded_ + d + i * F32::kLanes)
                          : F32::LoadHalf(value_rows_[key] + d + i * F32::kLanes);
      }
      if constexpr (!kConverted) {
        const uint16_t* const next = next_values_[key / kSlabKeys] + key % kSlabKeys * head_dim_ + d;
        for (int64_t line = 0; line < kVectors * F32::kLanes; line += kLine) {
          __builtin_prefetch(next + line, 0, 2);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const F32 weight = F32::Set(scores_[(row + r) * kKeyTile + key]);
#pragma GCC unroll 8
        for (int i = 0; i < kVectors; ++i) {
          sums[r][i] = Fma(weight, v[i], sums[r][i]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; ++i) {
        sums[r][i].Store(outputs_ + (row + r) * padded_ + d + i * F32::kLanes);
      }
    }
  }

  const uint16_t* k_cache_;
  const uint16_t* v_cache_;
  // Of the tile, if it is converted:
  float* keys_ = nullptr;    // [head_dim, kKeyTile]
  float* values_ = nullptr;  // [kKeyTile, padded]
  // Where the tile's halves are: dimension d of kSlabKeys keys that follow each other at slab + d * slab_stride_, and
  // each key's values.
  const uint16_t* slabs_[kSlabs] = {};
  int64_t slab_stride_ = 0;
  const uint16_t* next_keys_[kSlabs] = {};
  const uint16_t* next_values_[kSlabs] = {};
  const uint16_t* value_rows_[kKeyTile] = {};
  uint16_t* gathered_ = nullptr;  // [kSlabs, head_dim, kSlabKeys]: slabs from blocks that do not hold whole ones
  bool converts_ = false;
};

template <class F32>
void Attention(const AttentionShape& shape, const AttentionSequence& sequence, const uint16_t* k_cache,
               const uint16_t* v_cache, int64_t head_begin, int64_t head_end, void* workspace) {
  AttentionBlock<F32> block(shape, sequence, k_cache, v_cache, AlignWorkspace<F32>(workspace));
  ForAttentionBlocks<F32>(shape, sequence, head_begin, head_end, [&](auto... rows) { block.Run(rows...); });
}

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_ATTENTION_H_
