#ifndef FLEXQUANT_KERNELS_CPU_ATTENTION_8_H_
#define FLEXQUANT_KERNELS_CPU_ATTENTION_8_H_

// Attention over 8-bit keys and values (kernels/kv_8.h) in integers: queries and, tile by tile, weights have 14 bits,
// as two planes of 7, so that sums of products of a plane's bytes and signed ones are exact and overflow on no
// instruction set. A row's arithmetic depends only on its own query and visible positions, as in attention.h.

#include <cstdint>

#include "kernels/cpu/attention_rows.h"
#include "kernels/cpu/attention_workspace.h"
#include "kernels/cpu/exp.h"
#include "kernels/kernels.h"
#include "kernels/kv_8.h"

namespace flexquant {

inline constexpr int64_t kByteSlabs = kByteKeyTile / kSlabKeys;
inline constexpr float kMostOfPlanes = 16383;
// A query's numbers are moved by so much, since planes have no sign.
inline constexpr float kQueryOffset = 8192;

// Adds a later part's record to that of the parts before it; either may have seen no key.
template <class F32>
void AddAttentionRecord(const float* part, int64_t padded, float* whole) {
  const float max = whole[padded] > part[padded] ? whole[padded] : part[padded];
  const F32 whole_factor = Exp(F32::Set(whole[padded]) - F32::Set(max));
  const F32 part_factor = Exp(F32::Set(part[padded]) - F32::Set(max));
  for (int64_t d = 0; d < padded; d += F32::kLanes) {
    Fma(F32::Load(part + d), part_factor, F32::Load(whole + d) * whole_factor).Store(whole + d);
  }
  float factors[2][F32::kLanes];
  whole_factor.Store(factors[0]);
  part_factor.Store(factors[1]);
  whole[padded] = max;
  whole[padded + 1] = whole[padded + 1] * factors[0][0] + part[padded + 1] * factors[1][0];
}

template <class F32, class I32>
class ByteAttentionBlock : AttentionRows<F32, kByteKeyTile> {
  using Rows = AttentionRows<F32, kByteKeyTile>;

 public:
  ByteAttentionBlock(const AttentionShape& shape, const AttentionSequence& sequence, const uint8_t* k_cache,
                     const uint8_t* v_cache, float* workspace)
      : Rows(shape, sequence, workspace),
        k_cache_(k_cache),
        v_cache_(v_cache),
        layout_{padded_},
        slabs_a_block_(shape.block_tokens / kSlabKeys) {
    record_floats_ = padded_ + kMaxLanes;
    whole_ = Rows::rest_;
    query_scales_ = whole_ + (kAttentionRows + 1) * record_floats_;
    weight_scales_ = query_scales_ + kAttentionRows;
    queries_ = reinterpret_cast<int8_t*>(weight_scales_ + kAttentionRows);
    weights_ = queries_ + kAttentionRows * 2 * padded_;
  }

  // Heads [head, head + heads) of one KV head, query tokens [token, token + tokens); heads * tokens <= kAttentionRows.
  void Run(int64_t head, int64_t heads, int64_t token, int64_t tokens) {
    Begin(head, heads, token, tokens);
    const int64_t first_part = first_ / kAttentionPartKeys;
    const int64_t last_part = last_ / kAttentionPartKeys;
    for (int64_t part = first_part; part <= last_part; ++part) {
      Gather(part);
      for (int64_t row = 0; row < rows_; ++row) {
        float* whole = whole_ + row * record_floats_;
        if (part == first_part) {
          WriteRecord(row, whole);
        } else {
          float* latest = whole_ + kAttentionRows * record_floats_;
          WriteRecord(row, latest);
          AddAttentionRecord<F32>(latest, padded_, whole);
        }
      }
    }
    for (int64_t row = 0; row < rows_; ++row) {
      const float* whole = whole_ + row * record_floats_;
      WriteOutput<F32>(whole, whole[padded_ + 1], head_dim_, Rows::Output(row));
    }
  }

  // One part of the context of query token 0, for heads [head, head + heads) of one KV head, at most kAttentionRows;
  // record of head h at records + h * stride.
  void RunPart(int64_t head, int64_t heads, int64_t part, float* records, int64_t stride) {
    Begin(head, heads, 0, 1);
    Gather(part);
    for (int64_t row = 0; row < rows_; ++row) {
      WriteRecord(row, records + (head + row) * stride);
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

  void Begin(int64_t head, int64_t heads, int64_t token, int64_t tokens) {
    Rows::Place(head, heads, token, tokens);
    for (int64_t row = 0; row < rows_; ++row) {
      QuantizeQuery(row);
    }
    kv_head_ = head / (shape_.num_heads / shape_.num_kv_heads);
    first_ = Rows::FirstVisible(sequence_.start + token);
    last_ = sequence_.start + token + tokens - 1;
  }

  // What the rows gather in a part.
  void Gather(int64_t part) {
    Rows::Start();
    const int64_t part_first = part * kAttentionPartKeys;
    const int64_t part_last = part_first + kAttentionPartKeys - 1;
    const int64_t first = first_ > part_first ? first_ : part_first;
    const int64_t last = last_ < part_last ? last_ : part_last;
    for (int64_t tile = first / kByteKeyTile * kByteKeyTile; tile <= last; tile += kByteKeyTile) {
      const int64_t begin = first > tile ? first - tile : 0;
      const int64_t end = last + 1 - tile < kByteKeyTile ? last + 1 - tile : kByteKeyTile;
      FindTile(tile, begin, end);
      FindNext(tile + kByteKeyTile);
      Rows::ForRows([&](auto count, int64_t row) { Scores<count.value>(row); });
      FindValueScales(begin, end);
      Rows::ForRows([&](auto count, int64_t row) { Weights<count.value>(row, tile); });
      Rows::ForRows([&](auto count, int64_t row) { AddValues<count.value>(row); });
    }
  }

  void WriteRecord(int64_t row, float* record) {
    __builtin_memcpy(record, outputs_ + row * padded_, static_cast<size_t>(padded_) * sizeof(float));
    record[padded_] = maxima_[row];
    record[padded_ + 1] = sums_[row];
  }

  // Where in the caches a position's slabs are.
  int64_t SlabOffset(int64_t kv_head, int64_t position) const {
    const auto block = static_cast<int64_t>(sequence_.block_table[position / shape_.block_tokens]);
    const int64_t slab = position % shape_.block_tokens / kSlabKeys;
    return ((kv_head * shape_.num_blocks + block) * slabs_a_block_ + slab) * layout_.bytes();
  }

  // Positions before `begin` and from `end` on are not looked up: their blocks may be gone or not there yet. In place
  // of what nobody sees a slab that is there is read.
  void FindTile(int64_t tile, int64_t begin, int64_t end) {
    first_slab_ = begin / kSlabKeys;
    end_slab_ = (end + kSlabKeys - 1) / kSlabKeys;
    for (int64_t slab = first_slab_; slab < end_slab_; ++slab) {
      slabs_[slab] = SlabOffset(kv_head_, tile + slab * kSlabKeys);
    }
    for (int64_t slab = 0; slab < first_slab_; ++slab) {
      slabs_[slab] = slabs_[first_slab_];
    }
    for (int64_t slab = end_slab_; slab < kByteSlabs; ++slab) {
      slabs_[slab] = slabs_[first_slab_];
    }
  }

  // The next tile's slabs, of whatever part, fetched between the arithmetic of this one. Behind a single query's last
  // key that is the next KV head's first tile; where nothing follows, this one's slabs, which costs nothing.
  void FindNext(int64_t tile) {
    int64_t kv_head = kv_head_;
    if (tile > last_ && sequence_.num_tokens == 1 && kv_head + 1 < shape_.num_kv_heads) {
      ++kv_head;
      tile = first_ / kByteKeyTile * kByteKeyTile;
    }
    for (int64_t slab = 0; slab < kByteSlabs; ++slab) {
      const int64_t position = tile + slab * kSlabKeys;
      const bool there = position + kSlabKeys > first_ && position <= last_;
      next_[slab] = there ? SlabOffset(kv_head, position) : slabs_[slab];
    }
  }

  // The nearest integers of x in [0, 16383] as bytes in [0, 127]: their high plane, and their low one `planes` behind
  // it.
  static void StorePlanes(F32 x, int8_t* high, int64_t planes) {
    const I32 rounded = I32::Nearest(x);
    rounded.StoreHigh7(high);
    rounded.StoreLow7(high + planes);
  }

  void QuantizeQuery(int64_t row) {
    const float* q = Rows::Query(row);
    F32 largest = F32::Set(0.0F);
    ForQuery(q, [&](F32 x, int64_t /*d*/) { largest = Max(largest, Abs(x)); });
    const float most = ReduceMax(largest);
    const F32 inverse = F32::Set(most > 0 ? (kQueryOffset - 1) / most : 0.0F);
    int8_t* to = queries_ + row * 2 * padded_;
    ForQuery(q, [&](F32 x, int64_t d) { StorePlanes(x * inverse + F32::Set(kQueryOffset), to + d, padded_); });
    query_scales_[row] = most / (kQueryOffset - 1) * shape_.scale;
  }

  template <class Body>
  void ForQuery(const float* q, Body body) {
    for (int64_t d = 0; d < padded_; d += F32::kLanes) {
      const int64_t left = head_dim_ - d;
      body(left >= F32::kLanes ? F32::Load(q + d) : F32::LoadN(q + d, left > 0 ? left : 0), d);
    }
  }

  // Of the products with both planes.
  struct Sums {
    I32 high;
    I32 low;

    void Clear() {
      high = I32::Zero();
      low = I32::Zero();
    }
    void Add(I32 high_plane, I32 low_plane, I32 bytes) {
      high = Dot(high, high_plane, bytes);
      low = Dot(low, low_plane, bytes);
    }
    // Less `offset` steps of the high plane.
    F32 Total(F32 offset) const { return FusedFma(ToFloat(high) - offset, F32::Set(128.0F), ToFloat(low)); }
  };

  // Here and below: unless told, GCC unrolls too late to keep the sums in registers, and loops that may run no turn
  // have it copy them every turn.
  template <int kRows, int kCount>
  static void Clear(Sums (&sums)[kRows][kCount]) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) {
        sums[r][i].Clear();
      }
    }
  }

  // Vectors whose sums one pass keeps: enough that they do not wait for each other, few enough for the registers.
  template <int kRows>
  static constexpr int kVectors = F32::kLanes == 16 ? (kRows <= 2 ? 4 : 2) : (kRows > 2 ? 1 : 2);

  // Of keys that are not visible the score is anything.
  template <int kRows>
  void Scores(int64_t row) {
    constexpr int kCount = kVectors<kRows>;
    constexpr int64_t kKeys = kCount * F32::kLanes;
    const int64_t quads = padded_ / 4;
    const int8_t* q = queries_ + row * 2 * padded_;
    for (int64_t key = first_slab_ * kSlabKeys / kKeys * kKeys; key < end_slab_ * kSlabKeys; key += kKeys) {
      const int8_t* keys[kCount];
      const int8_t* next[kCount];
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) {
        const int64_t at = key + i * F32::kLanes;
        const int64_t slab = at / kSlabKeys;
        keys[i] = layout_.codes(k_cache_ + slabs_[slab]) + at % kSlabKeys * 4;
        next[i] = layout_.codes(k_cache_ + (row == 0 ? next_ : slabs_)[slab]) + at % kSlabKeys * 4;
      }
      Sums sums[kRows][kCount];
      Clear(sums);
      int64_t quad = 0;
      do {
        I32 k[kCount];
#pragma GCC unroll 8
        for (int i = 0; i < kCount; ++i) {
          Fetch(next[i] + quad * kSlabKeys * 4);
          k[i] = I32::Load(keys[i] + quad * kSlabKeys * 4);
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const I32 q_high = I32::Repeat(q + r * 2 * padded_ + quad * 4);
          const I32 q_low = I32::Repeat(q + (r * 2 + 1) * padded_ + quad * 4);
#pragma GCC unroll 8
          for (int i = 0; i < kCount; ++i) {
            sums[r][i].Add(q_high, q_low, k[i]);
          }
        }
      } while (++quad < quads);
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) {
        const int64_t at = key + i * F32::kLanes;
        const uint8_t* slab = k_cache_ + slabs_[at / kSlabKeys];
        const F32 scale = F32::LoadHalf(layout_.scales(slab) + at % kSlabKeys);
        // The part of the offset, in the high plane's steps.
        const F32 offset = F32::LoadInt16(layout_.sums(slab) + at % kSlabKeys) * F32::Set(kQueryOffset / 128);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          (sums[r][i].Total(offset) * (scale * F32::Set(query_scales_[row + r])))
              .Store(scores_ + (row + r) * kByteKeyTile + at);
        }
      }
    }
  }

  [[gnu::always_inline]] static void Fetch(const void* from) { __builtin_prefetch(from, 0, 2); }

  // Of keys outside [begin, end) 0, whatever is in their places.
  void FindValueScales(int64_t begin, int64_t end) {
    for (int64_t key = 0; key < kByteKeyTile; key += F32::kLanes) {
      const int64_t slab = key / kSlabKeys;
      Fetch(layout_.scales(k_cache_ + next_[slab]));  // and the sums, on the same line
      Fetch(layout_.scales(v_cache_ + next_[slab]));
      F32::LoadHalf(layout_.scales(v_cache_ + slabs_[slab]) + key % kSlabKeys).Store(value_scales_ + key);
    }
    for (int64_t key = 0; key < begin; ++key) {
      value_scales_[key] = 0;
    }
    for (int64_t key = end; key < kByteKeyTile; ++key) {
      value_scales_[key] = 0;
    }
  }

  // Scores to planes of weights times values' scales; rescales what the rows gathered so far if their maxima grew.
  template <int kRows>
  void Weights(int64_t row, int64_t tile) {
    // Rows whose long chains of operations run side by side, as far as registers allow.
    constexpr int kTogether = F32::kLanes == 16 ? kRows : 1;
    for (int r = 0; r < kRows; r += kTogether) {
      for (int i = 0; i < kTogether; ++i) {
        Rows::HideScores(row + r + i, tile);
      }
      WeightsOf<kTogether>(row + r);
    }
  }

  // A row that has seen no key yet weighs hidden ones by 1; its first visible one takes that back, times exactly 0.
  template <int kRows>
  void WeightsOf(int64_t row) {
    constexpr int kCount = static_cast<int>(kByteKeyTile / F32::kLanes);
    F32 x[kRows][kCount];
    F32 max[kRows];
    for (int r = 0; r < kRows; ++r) {
      max[r] = F32::Set(maxima_[row + r]);
      for (int i = 0; i < kCount; ++i) {
        x[r][i] = F32::Load(scores_ + (row + r) * kByteKeyTile + i * F32::kLanes);
        max[r] = Max(max[r], x[r][i]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      max[r] = F32::Set(Rows::Raise(row + r, ReduceMax(max[r])));
    }
    F32 sum[kRows];
    for (int r = 0; r < kRows; ++r) {
      sum[r] = F32::Set(0.0F);
      for (int i = 0; i < kCount; ++i) {
        x[r][i] = Exp(x[r][i] - max[r]);
        sum[r] = sum[r] + x[r][i];
      }
    }
    F32 most[kRows];
    for (int r = 0; r < kRows; ++r) {
      most[r] = F32::Set(0.0F);
      for (int i = 0; i < kCount; ++i) {
        x[r][i] = x[r][i] * F32::Load(value_scales_ + i * F32::kLanes);
        most[r] = Max(most[r], x[r][i]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      sums_[row + r] += ReduceAdd(sum[r]);
      const float largest = ReduceMax(most[r]);
      const F32 inverse = F32::Set(largest > 0 ? kMostOfPlanes / largest : 0.0F);
      int8_t* to = weights_ + (row + r) * 2 * kByteKeyTile;
      for (int i = 0; i < kCount; ++i) {
        StorePlanes(x[r][i] * inverse, to + i * F32::kLanes, kByteKeyTile);
      }
      weight_scales_[row + r] = largest / kMostOfPlanes;
    }
  }

  template <int kRows>
  void AddValues(int64_t row) {
    constexpr int kCount = kVectors<kRows>;
    int64_t d = 0;
    for (; d + kCount * F32::kLanes <= padded_; d += kCount * F32::kLanes) {
      AddValuesAt<kRows, kCount>(row, d);
    }
    for (; d < padded_; d += F32::kLanes) {
      AddValuesAt<kRows, 1>(row, d);
    }
  }

  template <int kRows, int kCount>
  void AddValuesAt(int64_t row, int64_t d) {
    const int8_t* weights = weights_ + row * 2 * kByteKeyTile;
    Sums sums[kRows][kCount];
    Clear(sums);
    int64_t slab = first_slab_;
    do {
      const int8_t* values = layout_.codes(v_cache_ + slabs_[slab]) + d * 4;
      const int8_t* next = layout_.codes(v_cache_ + (row == 0 ? next_ : slabs_)[slab]) + d * 4;
      int64_t quad = 0;
      do {
        I32 v[kCount];
#pragma GCC unroll 8
        for (int i = 0; i < kCount; ++i) {
          const int64_t at = (quad * padded_ + i * F32::kLanes) * 4;
          Fetch(next + at);
          v[i] = I32::Load(values + at);
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const int8_t* weight = weights + r * 2 * kByteKeyTile + slab * kSlabKeys + quad * 4;
          const I32 w_high = I32::Repeat(weight);
          const I32 w_low = I32::Repeat(weight + kByteKeyTile);
#pragma GCC unroll 8
          for (int i = 0; i < kCount; ++i) {
            sums[r][i].Add(w_high, w_low, v[i]);
          }
        }
      } while (++quad < kSlabKeys / 4);
    } while (++slab < end_slab_);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F32 scale = F32::Set(weight_scales_[row + r]);
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) {
        float* output = outputs_ + (row + r) * padded_ + d + i * F32::kLanes;
        Fma(sums[r][i].Total(F32::Set(0.0F)), scale, F32::Load(output)).Store(output);
      }
    }
  }

  const uint8_t* k_cache_;
  const uint8_t* v_cache_;
  const Kv8Slab<F32> layout_;
  const int64_t slabs_a_block_;
  int64_t record_floats_ = 0;
  int64_t kv_head_ = 0;
  int64_t first_ = 0;  // visible to any row
  int64_t last_ = 0;
  // Of the tile, and of the next one, in the caches: slabs [first_slab_, end_slab_) have visible keys.
  int64_t slabs_[kByteSlabs] = {};
  int64_t next_[kByteSlabs] = {};
  int64_t first_slab_ = 0;
  int64_t end_slab_ = 0;
  alignas(64) float value_scales_[kByteKeyTile] = {};
  float* whole_ = nullptr;          // [rows + 1, record_floats_]: of the parts so far, and of the latest of a row
  float* query_scales_ = nullptr;   // [rows], times the shape's scale
  float* weight_scales_ = nullptr;  // [rows]
  int8_t* queries_ = nullptr;       // [rows, 2, padded]: planes of quantised queries, offset
  int8_t* weights_ = nullptr;       // [rows, 2, kByteKeyTile]: planes of weights times values' scales
};

template <class F32, class I32>
void Attention8(const AttentionShape& shape, const AttentionSequence& sequence, const uint8_t* k_cache,
                const uint8_t* v_cache, int64_t head_begin, int64_t head_end, void* workspace) {
  ByteAttentionBlock<F32, I32> block(shape, sequence, k_cache, v_cache, AlignWorkspace<F32>(workspace));
  ForAttentionBlocks<F32>(shape, sequence, head_begin, head_end, [&](auto... rows) { block.Run(rows...); });
}

template <class F32, class I32>
void Attention8Part(const AttentionShape& shape, const AttentionSequence& sequence, const uint8_t* k_cache,
                    const uint8_t* v_cache, int64_t head_begin, int64_t head_end, int64_t part, float* records,
                    int64_t stride, void* workspace) {
  ByteAttentionBlock<F32, I32> block(shape, sequence, k_cache, v_cache, AlignWorkspace<F32>(workspace));
  ForAttentionBlocks<F32>(shape, sequence, head_begin, head_end,
                          [&](int64_t head, int64_t heads, int64_t /*token*/, int64_t /*tokens*/) {
                            block.RunPart(head, heads, part, records, stride);
                          });
}

template <class F32>
void MergeAttention8(float* records, int64_t parts, int64_t head_dim, float* out) {
  const int64_t padded = Padded<F32>(head_dim);
  for (int64_t part = 1; part < parts; ++part) {
    AddAttentionRecord<F32>(records + part * (padded + kMaxLanes), padded, records);
  }
  WriteOutput<F32>(records, records[padded + 1], head_dim, out);
}

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_ATTENTION_8_H_
