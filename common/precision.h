#ifndef FLEXQUANT_COMMON_PRECISION_H_
#define FLEXQUANT_COMMON_PRECISION_H_

// Precisions, layer groups and plans: the words every part of FlexQuant shares.
//
// precision   = weight bits, one of kPrecisions; kReferencePrecision (16) = unquantised weights, for evaluation.
// layer group = one fused linear layer, the unit a plan speaks of. Order: for each block qkv, o, gate_up, down; then
// lm_head. plan        = one precision for every layer group.

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace flexquant {

inline constexpr std::array<int, 5> kPrecisions = {3, 4, 5, 6, 8};
inline constexpr int kTopPrecision = 8;
inline constexpr int kReferencePrecision = 16;

// True for 3, 4, 5, 6, 8 (not for 16).
bool IsQuantizedPrecision(int bits);

enum class LayerGroupKind : uint8_t { kQkv = 0, kO = 1, kGateUp = 2, kDown = 3, kLmHead = 4 };
inline constexpr int kLayerGroupsPerBlock = 4;
// By LayerGroupKind.
inline constexpr std::array<const char*, kLayerGroupsPerBlock + 1> kLayerGroupKindNames = {"qkv", "o", "gate_up",
                                                                                           "down", "lm_head"};

inline int NumLayerGroups(int num_layers) { return kLayerGroupsPerBlock * num_layers + 1; }
inline int LayerGroupIndex(int layer, LayerGroupKind kind) {
  return kLayerGroupsPerBlock * layer + static_cast<int>(kind);
}
inline int LmHeadIndex(int num_layers) { return kLayerGroupsPerBlock * num_layers; }
// Of `index` in [0, NumLayerGroups(num_layers)).
inline LayerGroupKind LayerGroupKindOf(int index, int num_layers) {
  return index == LmHeadIndex(num_layers) ? LayerGroupKind::kLmHead
                                          : static_cast<LayerGroupKind>(index % kLayerGroupsPerBlock);
}

// "layers.3.gate_up" or "lm_head". `index` in [0, NumLayerGroups(num_layers)).
std::string LayerGroupName(int index, int num_layers);

// Precisions from which on a package may have fine activations (Manifest::fine_activations_from), and what is usual: 8
// bits cost more quality there than the weights do (measured: docs/quality.md).
inline constexpr std::array<int, 2> kFineActivationsFrom = {6, 8};
inline constexpr int kDefaultFineActivationsFrom = 6;

// Bits of the activations that enter a layer group computed at `precision`: 15 from the precision `fine_from` on, below
// it 8. 15-bit activations are two int8 numbers of the same value.
constexpr int ActivationBits(int precision, int fine_from) { return precision >= fine_from ? 15 : 8; }

// One precision for every layer group; a value type.
struct PrecisionPlan {
  std::vector<uint8_t> bits;  // [num_layer_groups]

  static PrecisionPlan Uniform(int precision, int num_layer_groups);

  bool operator==(const PrecisionPlan&) const = default;

  // INVALID_ARGUMENT naming the first bad group unless the length is `num_layer_groups` and every value is a quantised
  // precision, or all are 16 and `has_reference`.
  absl::Status Validate(int num_layer_groups, bool has_reference) const;

  // This plan of a model of some layers for one of `num_layers`, both at least 1, by position in depth: layer l has the
  // widths of layer round(l * (layers - 1) / (num_layers - 1)), kind by kind, and the head those of the head.
  PrecisionPlan Stretched(int num_layers) const;

  // Mean bits weighted by `group_weights` [num_layer_groups] (number of weights a group).
  double MeanBits(absl::Span<const uint64_t> group_weights) const;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_PRECISION_H_
