#ifndef FLEXQUANT_KERNELS_CPU_ATTENTION_WORKSPACE_H_
#define FLEXQUANT_KERNELS_CPU_ATTENTION_WORKSPACE_H_

#include <cstdint>

#include "kernels/kernels.h"

namespace flexquant {

// Keys a tile: tiles start at multiples of it, so that what a query meets together never depends on its neighbours.
inline constexpr int64_t kKeyTile = 32;
inline constexpr int64_t kByteKeyTile = 128;  // of 8-bit keys and values
// Keys whose numbers lie side by side.
inline constexpr int64_t kSlabKeys = kKv8SlabTokens;
// Most (query token, head) pairs that meet a tile together.
inline constexpr int64_t kAttentionRows = 32;
// head_dim is padded to whole vectors of the widest set.
inline constexpr int64_t kMaxLanes = 16;

// How many floats a call's workspace has. For code that is compiled for no instruction set in particular.
constexpr int64_t PaddedHeadDim(int64_t head_dim) { return (head_dim + kMaxLanes - 1) / kMaxLanes * kMaxLanes; }

// Floats for scores [rows, tile], outputs [rows, padded], maxima [rows], sums [rows].
constexpr int64_t AttentionRowsFloats(int64_t head_dim, int64_t tile) {
  return kAttentionRows * (tile + PaddedHeadDim(head_dim) + 2);
}

// Keys [head_dim, kKeyTile], values [kKeyTile, padded], and half as many for keys in fp16.
constexpr int64_t ConvertedTileFloats(int64_t head_dim) { return kKeyTile * PaddedHeadDim(head_dim) * 5 / 2; }

// What a row gathers in a part of its context: output before the division by the sum of weights [padded], the largest
// score, that sum.
constexpr int64_t AttentionRecordFloats(int64_t head_dim) { return PaddedHeadDim(head_dim) + kMaxLanes; }

// Records [rows + 1], queries [rows, 2, padded] and weights [rows, 2, kByteKeyTile] in bytes, a scale each [2, rows].
constexpr int64_t ByteRowsFloats(int64_t head_dim) {
  return (kAttentionRows + 1) * AttentionRecordFloats(head_dim) +
         kAttentionRows * (2 * PaddedHeadDim(head_dim) + 2 * kByteKeyTile) / 4 + 2 * kAttentionRows;
}

// Floats in the workspace of an attention call, over fp16 or 8-bit keys and values.
constexpr int64_t AttentionWorkspaceFloats(int64_t head_dim) {
  const int64_t halves = ConvertedTileFloats(head_dim) + AttentionRowsFloats(head_dim, kKeyTile);
  const int64_t bytes = ByteRowsFloats(head_dim) + AttentionRowsFloats(head_dim, kByteKeyTile);
  return halves > bytes ? halves : bytes;
}

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_ATTENTION_WORKSPACE_H_
