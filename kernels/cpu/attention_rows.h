#ifndef FLEXQUANT_KERNELS_CPU_ATTENTION_ROWS_H_
#define FLEXQUANT_KERNELS_CPU_ATTENTION_ROWS_H_

// What attention over fp16 and over 8-bit keys and values share: a block of up to kAttentionRows rows that meet one
// tile of keys after the other in an online softmax. A row is one (query token, head) pair, all of one KV head.

#include <cstdint>

#include "kernels/cpu/attention_workspace.h"
#include "kernels/cpu/exp.h"
#include "kernels/kernels.h"

namespace flexquant {

inline constexpr float kHiddenScore = -3.0e38F;

// PaddedHeadDim, for code of one instruction set.
template <class F32>
int64_t Padded(int64_t head_dim) {
  return (head_dim + kMaxLanes - 1) / kMaxLanes * kMaxLanes;
}

// A head's output [head_dim] of what it gathered and its sum of weights.
template <class F32>
void WriteOutput(const float* gathered, float sum, int64_t head_dim, float* out) {
  const F32 inverse = F32::Set(1.0F / sum);
  for (int64_t d = 0; d < head_dim; d += F32::kLanes) {
    const int64_t count = head_dim - d < F32::kLanes ? head_dim - d : F32::kLanes;
    (F32::Load(gathered + d) * inverse).StoreN(out + d, count);
  }
}

// Tiles of kTile keys begin at multiples of it.
template <class F32, int64_t kTile>
class AttentionRows {
 protected:
  // What `workspace` has behind AttentionRowsFloats(head_dim, kTile) floats is the derived class's.
  AttentionRows(const AttentionShape& shape, const AttentionSequence& sequence, float* workspace)
      : shape_(shape), sequence_(sequence), head_dim_(shape.head_dim), padded_(Padded<F32>(shape.head_dim)) {
    scores_ = workspace;
    outputs_ = scores_ + kAttentionRows * kTile;
    maxima_ = outputs_ + kAttentionRows * padded_;
    sums_ = maxima_ + kAttentionRows;
    rest_ = sums_ + kAttentionRows;
  }

  // Heads [head, head + heads) of one KV head, query tokens [token, token + tokens); heads * tokens <= kAttentionRows.
  void Place(int64_t head, int64_t heads, int64_t token, int64_t tokens) {
    head_ = head;
    heads_ = heads;
    token_ = token;
    rows_ = heads * tokens;
  }

  // Rows that have gathered nothing.
  void Start() {
    for (int64_t row = 0; row < rows_; ++row) {
      maxima_[row] = kHiddenScore;
      sums_[row] = 0;
    }
    __builtin_memset(outputs_, 0, static_cast<size_t>(rows_ * padded_) * sizeof(float));
  }

  template <int kValue>
  struct Constant {
    static constexpr int value = kValue;
  };

  // Calls body for blocks of four rows and then for the rows left.
  template <class Body>
  void ForRows(Body body) {
    int64_t row = 0;
    for (; row + 4 <= rows_; row += 4) {
      body(Constant<4>(), row);
    }
    if (rows_ - row == 3) {
      body(Constant<3>(), row);
    } else if (rows_ - row == 2) {
      body(Constant<2>(), row);
    } else if (rows_ - row == 1) {
      body(Constant<1>(), row);
    }
  }

  int64_t FirstVisible(int64_t position) const {
    const int64_t window = shape_.sliding_window;
    return window > 0 && position >= window ? position - window + 1 : 0;
  }

  int64_t Position(int64_t row) const { return sequence_.start + token_ + row / heads_; }

  const float* Query(int64_t row) const {
    return sequence_.q + (token_ + row / heads_) * shape_.q_stride + (head_ + row % heads_) * head_dim_;
  }

  float* Output(int64_t row) const {
    return sequence_.out + (token_ + row / heads_) * shape_.out_stride + (head_ + row % heads_) * head_dim_;
  }

  // Makes the row's scores of hidden keys of the tile kHiddenScore; false if it sees none.
  bool HideScores(int64_t row, int64_t tile) {
    float* scores = scores_ + row * kTile;
    const int64_t position = Position(row);
    const int64_t begin = FirstVisible(position) - tile;
    const int64_t end = position + 1 - tile;
    for (int64_t key = 0; key < begin && key < kTile; ++key) {
      scores[key] = kHiddenScore;
    }
    for (int64_t key = end > 0 ? end : 0; key < kTile; ++key) {
      scores[key] = kHiddenScore;
    }
    return end > 0 && begin < kTile;
  }

  // Rescales what the row gathered so far to a maximum that may have grown; returns it.
  float Raise(int64_t row, float max) {
    if (max != maxima_[row]) {
      float shrink[F32::kLanes];
      const F32 factor = Exp(F32::Set(maxima_[row]) - F32::Set(max));
      factor.Store(shrink);
      sums_[row] *= shrink[0];
      float* output = outputs_ + row * padded_;
      for (int64_t d = 0; d < padded_; d += F32::kLanes) {
        (F32::Load(output + d) * factor).Store(output + d);
      }
      maxima_[row] = max;
    }
    return max;
  }

  const AttentionShape& shape_;
  const AttentionSequence& sequence_;
  const int64_t head_dim_;
  const int64_t padded_;
  float* scores_ = nullptr;   // [rows, kTile]
  float* outputs_ = nullptr;  // [rows, padded]
  float* maxima_ = nullptr;   // [rows]
  float* sums_ = nullptr;     // [rows]
  float* rest_ = nullptr;     // of the workspace
  int64_t head_ = 0;
  int64_t heads_ = 0;
  int64_t token_ = 0;
  int64_t rows_ = 0;
};

// Calls run(head, heads, token, tokens) for the blocks of rows of heads [head_begin, head_end).
template <class F32, class Run>
void ForAttentionBlocks(const AttentionShape& shape, const AttentionSequence& sequence, int64_t head_begin,
                        int64_t head_end, Run run) {
  const int64_t group = shape.num_heads / shape.num_kv_heads;
  for (int64_t head = head_begin; head < head_end;) {
    const int64_t group_end = (head / group + 1) * group;
    int64_t heads = (group_end < head_end ? group_end : head_end) - head;
    heads = heads < kAttentionRows ? heads : kAttentionRows;
    const int64_t most_tokens = kAttentionRows / heads;
    for (int64_t token = 0; token < sequence.num_tokens; token += most_tokens) {
      const int64_t left = sequence.num_tokens - token;
      run(head, heads, token, left < most_tokens ? left : most_tokens);
    }
    head += heads;
  }
}

// The workspace from its first multiple of 64 on.
template <class F32>
float* AlignWorkspace(void* workspace) {
  const auto address = reinterpret_cast<uintptr_t>(workspace);
  return reinterpret_cast<float*>(static_cast<uint8_t*>(workspace) + (-address & 63U));
}

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_ATTENTION_ROWS_H_
