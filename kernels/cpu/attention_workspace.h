#ifndef FLEXQUANT_KERNELS_CPU_ATTENTION_WORKSPACE_H_
#define FLEXQUANT_KERNELS_CPU_ATTENTION_WORKSPACE_H_

#include <cstdint>

namespace flexquant {

// Keys a tile: tiles start at multiples of it, so that what a query meets together never depends on its neighbours.
inline constexpr int64_t kKeyTile = 32;
// Most (query token, head) pairs that share one conversion of a key tile.
inline constexpr int64_t kAttentionRows = 32;
// head_dim is padded to whole vectors of the widest set.
inline constexpr int64_t kMaxLanes = 16;

// Floats in an attention call's workspace: keys [head_dim, kKeyTile], values [kKeyTile, padded], half as many for keys
// in fp16, scores [rows, kKeyTile], outputs [rows, padded], maxima [rows], sums [rows].
template <class Int>
constexpr Int AttentionWorkspaceFloats(Int head_dim) {
  const Int padded = (head_dim + kMaxLanes - 1) / kMaxLanes * kMaxLanes;
  return kKeyTile * padded * 2 + kKeyTile * padded / 2 + kAttentionRows * (kKeyTile + padded + 2);
}

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_CPU_ATTENTION_WORKSPACE_H_
