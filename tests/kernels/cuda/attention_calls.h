#ifndef FLEXQUANT_TESTS_KERNELS_CUDA_ATTENTION_CALLS_H_
#define FLEXQUANT_TESTS_KERNELS_CUDA_ATTENTION_CALLS_H_

// Calls of attention with all they read and write on the device.

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/cuda/attention_decode.h"
#include "kernels/cuda/attention_prefill.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/cuda/device_buffer.h"

namespace flexquant::testing {

// What the parameters of both calls have in common.
template <class Params>
void SetShape(const AttentionShape& shape, Params& params) {
  params.num_heads = static_cast<int>(shape.num_heads);
  params.num_kv_heads = static_cast<int>(shape.num_kv_heads);
  params.head_dim = static_cast<int>(shape.head_dim);
  params.block_tokens = static_cast<int>(shape.block_tokens);
  params.sliding_window = static_cast<int>(shape.sliding_window);
  params.scale = shape.scale;
  params.q_stride = shape.q_stride;
  params.out_stride = shape.out_stride;
}

// One query a sequence, at input.starts, of which the first `rows` are computed.
class DecodeAttention {
 public:
  explicit DecodeAttention(const AttentionInput& input)
      : DecodeAttention(input, static_cast<int32_t>(input.starts.size())) {}
  DecodeAttention(const AttentionInput& input, int32_t rows)
      : shape_(input.shape),
        all_rows_(static_cast<int64_t>(input.starts.size())),
        q_(input.q),
        out_(static_cast<size_t>(all_rows_ * shape_.out_stride)),
        k_(input.cache->k()),
        v_(input.cache->v()),
        tables_(input.cache->tables()),
        positions_(static_cast<size_t>(all_rows_)),
        num_rows_(1) {
    SetShape(shape_, params_);
    params_.q = q_.data();
    params_.out = out_.data();
    params_.k_cache = k_.data();
    params_.v_cache = v_.data();
    params_.block_tables = tables_.data();
    params_.block_table_stride = input.cache->table_stride();
    params_.positions = positions_.data();
    params_.num_rows = num_rows_.data();
    params_.max_rows = static_cast<int>(all_rows_);
    workspace_.emplace(cuda::AttentionDecodeWorkspaceBytes(params_));
    params_.workspace = workspace_->data();
    Set({input.starts.begin(), input.starts.end()}, rows);
  }

  cuda::AttentionDecodeParams& params() { return params_; }
  // Another step: positions of all rows and how many of them are computed; outputs are untouched again.
  void Set(const std::vector<int32_t>& positions, int32_t rows) {
    rows_ = rows;
    positions_.Upload(positions);
    num_rows_.Upload({rows});
    out_.Upload(Guarded().values());
  }
  // [rows, num_heads * head_dim].
  std::vector<float> Outputs() const {
    GuardedRows out = Guarded();
    out.values() = out_.Download();
    return out.Take();
  }
  std::vector<uint16_t> k() const { return k_.Download(); }
  std::vector<uint16_t> v() const { return v_.Download(); }

 private:
  GuardedRows Guarded() const {
    const int64_t size = shape_.num_heads * shape_.head_dim;
    return {rows_, size, shape_.out_stride - size, all_rows_ - rows_};
  }

  AttentionShape shape_;
  int64_t all_rows_;
  int64_t rows_ = 0;
  DeviceBuffer<float> q_;
  DeviceBuffer<float> out_;
  DeviceBuffer<uint16_t> k_;
  DeviceBuffer<uint16_t> v_;
  DeviceBuffer<uint32_t> tables_;
  DeviceBuffer<int32_t> positions_;
  DeviceBuffer<int32_t> num_rows_;
  std::optional<DeviceBuffer<uint8_t>> workspace_;
  cuda::AttentionDecodeParams params_;
};

// Chunks of queries; outputs go where the caller says.
class PrefillAttention {
 public:
  explicit PrefillAttention(const AttentionInput& input)
      : row_starts_{0},
        q_(input.q),
        k_(input.cache->k()),
        v_(input.cache->v()),
        tables_(input.cache->tables()),
        device_row_starts_(input.counts.size() + 1),
        starts_(std::vector<int32_t>(input.starts.begin(), input.starts.end())) {
    for (const int64_t count : input.counts) {
      row_starts_.push_back(row_starts_.back() + static_cast<int32_t>(count));
    }
    device_row_starts_.Upload(row_starts_);
    SetShape(input.shape, params_);
    params_.q = q_.data();
    params_.k_cache = k_.data();
    params_.v_cache = v_.data();
    params_.block_tables = tables_.data();
    params_.block_table_stride = input.cache->table_stride();
    params_.row_starts = device_row_starts_.data();
    params_.start_positions = starts_.data();
    params_.max_rows = rows() + 1;  // room for a row that no sequence has
    params_.max_sequences = static_cast<int>(input.counts.size());
  }

  int rows() const { return row_starts_.back(); }
  cuda::AttentionPrefillParams& params() { return params_; }

 private:
  std::vector<int32_t> row_starts_;
  DeviceBuffer<float> q_;
  DeviceBuffer<uint16_t> k_;
  DeviceBuffer<uint16_t> v_;
  DeviceBuffer<uint32_t> tables_;
  DeviceBuffer<int32_t> device_row_starts_;
  DeviceBuffer<int32_t> starts_;
  cuda::AttentionPrefillParams params_;
};

}  // namespace flexquant::testing

#endif  // FLEXQUANT_TESTS_KERNELS_CUDA_ATTENTION_CALLS_H_
