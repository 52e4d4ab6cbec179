#include "common/precision.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace flexquant {

bool IsQuantizedPrecision(int bits) {
  return std::find(kPrecisions.begin(), kPrecisions.end(), bits) != kPrecisions.end();
}

std::string LayerGroupName(int index, int num_layers) {
  if (index == LmHeadIndex(num_layers)) {
    return "lm_head";
  }
  return absl::StrCat("layers.", index / kLayerGroupsPerBlock, ".",
                      kLayerGroupKindNames[static_cast<size_t>(index % kLayerGroupsPerBlock)]);
}

PrecisionPlan PrecisionPlan::Uniform(int precision, int num_layer_groups) {
  return {std::vector<uint8_t>(static_cast<size_t>(num_layer_groups), static_cast<uint8_t>(precision))};
}

absl::Status PrecisionPlan::Validate(int num_layer_groups, bool has_reference) const {
  if (bits.size() != static_cast<size_t>(num_layer_groups)) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan has ", bits.size(), " layer groups; the model has ", num_layer_groups));
  }
  const bool all_reference = std::all_of(bits.begin(), bits.end(), [](uint8_t b) { return b == kReferencePrecision; });
  if (all_reference && !bits.empty()) {
    if (has_reference) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        "plan asks for 16 bits but the model was converted without the reference; convert it again with "
        "--keep-reference");
  }
  for (size_t group = 0; group < bits.size(); ++group) {
    if (!IsQuantizedPrecision(bits[group])) {
      return absl::InvalidArgumentError(
          absl::StrCat("plan has ", static_cast<int>(bits[group]), " bits for layer group ", group, "; allowed are ",
                       absl::StrJoin(kPrecisions, ", "), ", or 16 for every layer group"));
    }
  }
  return absl::OkStatus();
}

PrecisionPlan PrecisionPlan::Stretched(int num_layers) const {
  const int layers = static_cast<int>(bits.size()) / kLayerGroupsPerBlock;
  const int steps = std::max(1, num_layers - 1);
  PrecisionPlan stretched;
  for (int layer = 0; layer < num_layers; ++layer) {
    const int from = (2 * layer * (layers - 1) + steps) / (2 * steps);
    const auto begin = bits.begin() + LayerGroupIndex(from, LayerGroupKind::kQkv);
    stretched.bits.insert(stretched.bits.end(), begin, begin + kLayerGroupsPerBlock);
  }
  stretched.bits.push_back(bits.back());
  return stretched;
}

double PrecisionPlan::MeanBits(absl::Span<const uint64_t> group_weights) const {
  // In integers, which vectorise: a controller asks for every sequence's every token.
  uint64_t weighted_bits = 0;
  uint64_t weights = 0;
  for (size_t group = 0; group < bits.size() && group < group_weights.size(); ++group) {
    weighted_bits += bits[group] * group_weights[group];
    weights += group_weights[group];
  }
  return weights > 0 ? static_cast<double>(weighted_bits) / static_cast<double>(weights) : 0;
}

}  // namespace flexquant
