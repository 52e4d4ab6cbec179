#include "executor/head_rescorer.h"

#include <algorithm>

#include "common/precision.h"
#include "common/rescoring.h"
#include "common/status_macros.h"
#include "common/store/nested_quantizer.h"

namespace flexquant::executor {
namespace {

static_assert(kRescoredBits == kTopPrecision);

constexpr int64_t kCacheLine = 64;
// Tokens that a thread takes at a time: a few microseconds.
constexpr int64_t kPiece = 64;

}  // namespace

absl::Status HeadRescorer::Allocate(const NestedMatrix& head, int64_t first, int64_t vocab_size, int64_t max_rows) {
  cols_ = head.cols;
  group_size_ = head.group_size;
  padded_cols_ = head.units() * kUnitCols;
  groups_ = head.groups();
  first_ = first;
  num_rows_ = head.rows;
  vocab_size_ = vocab_size;
  const int64_t limit = RescoredRows(vocab_size);
  stride_ = CeilDiv(padded_cols_ + groups_ * 2 * static_cast<int64_t>(sizeof(float)), kCacheLine) * kCacheLine;
  workspace_stride_ = ThreadStride(LikeliestWorkspaceBytes(vocab_size, limit));
  counts_.resize(static_cast<size_t>(max_rows));
  FQ_ASSIGN_OR_RETURN(tokens_, LazyBuffer::Allocate(static_cast<uint64_t>(max_rows * limit) * sizeof(uint32_t),
                                                    "the likeliest tokens"));
  FQ_ASSIGN_OR_RETURN(workspace_,
                      LazyBuffer::Allocate(static_cast<uint64_t>(pool_.num_threads()) * workspace_stride_, "logits"));
  FQ_ASSIGN_OR_RETURN(rows_, LazyBuffer::Allocate(static_cast<uint64_t>(head.tiles() * kTileRows * stride_),
                                                  "the head's rows at 8 bits"));
  pool_.ParallelChunks(head.tiles(), 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile) {
      CopyTile(head, tile);
    }
  });
  limit_ = limit;
  return absl::OkStatus();
}

void HeadRescorer::CopyTile(const NestedMatrix& head, int64_t tile) {
  uint8_t* const rows = rows_.as<uint8_t>() + tile * kTileRows * stride_;
  DecodeTile(head, tile, rows, stride_);
  for (int64_t row = 0; row < kTileRows; ++row) {
    DecodeScales(head, tile * kTileRows + row, reinterpret_cast<float*>(rows + row * stride_ + padded_cols_));
  }
}

bool HeadRescorer::Wanted(const RowOrder& order) const {
  return limit_ > 0 && std::any_of(order.runs().begin(), order.runs().end(),
                                   [](const RowOrder::Run& run) { return IsRescored(run.bits); });
}

void HeadRescorer::Choose(const RowOrder& order, const float* logits) {
  pool_.ParallelChunks(order.size(), 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t slot = begin; slot < end; ++slot) {
      int64_t& count = counts_[static_cast<size_t>(slot)];
      count = 0;
      if (IsRescored(order.bits(slot))) {
        count =
            kernels_.likeliest(logits + slot * vocab_size_, vocab_size_, limit_, tokens_.as<uint32_t>() + slot * limit_,
                               workspace_.as<uint8_t>() + static_cast<size_t>(thread) * workspace_stride_);
      }
    }
  });
}

uint64_t HeadRescorer::Rescore(const RowOrder& order, absl::Span<const float> inputs, float* logits) {
  const int64_t pieces = CeilDiv(limit_, kPiece);
  pool_.ParallelChunks(order.size() * pieces, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t slot = item / pieces;
      const int64_t count = counts_[static_cast<size_t>(slot)];
      const int64_t last = std::min(count, (item % pieces + 1) * kPiece);
      const uint32_t* tokens = tokens_.as<uint32_t>() + slot * limit_;
      for (int64_t i = item % pieces * kPiece; i < last; ++i) {
        const int64_t row = static_cast<int64_t>(tokens[i]) - first_;
        if (row >= 0 && row < num_rows_) {
          const uint8_t* codes = Row(row);
          logits[slot * vocab_size_ + tokens[i]] =
              kernels_.dot_codes(codes, reinterpret_cast<const float*>(codes + padded_cols_),
                                 inputs.data() + slot * cols_, cols_, group_size_);
        }
      }
    }
  });
  int64_t rescored = 0;
  for (const RowOrder::Run& run : order.runs()) {
    rescored += IsRescored(run.bits) ? run.end - run.begin : 0;
  }
  return RescoredShareBytes(rescored, num_rows_, vocab_size_, cols_, group_size_);
}

}  // namespace flexquant::executor
