#ifndef FLEXQUANT_CONTROLLER_LAYER_GROUPS_H_
#define FLEXQUANT_CONTROLLER_LAYER_GROUPS_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "common/model_config.h"
#include "common/nested_matrix.h"
#include "common/precision.h"

namespace flexquant::controller {

// Sizes of a model's layer groups, computed from its shape: the controller maps no weights. Immutable and thread-safe.
class LayerGroups {
 public:
  // `fine_activations_from`: Manifest's.
  LayerGroups(const ModelConfig& config, int64_t group_size, Dtype reference_dtype,
              int fine_activations_from = kDefaultFineActivationsFrom);

  int count() const { return static_cast<int>(bytes_.size()); }
  std::string Name(int index) const { return LayerGroupName(index, num_layers_); }
  const std::vector<uint64_t>& num_weights() const { return num_weights_; }  // [count()]

  // Mean bits a weight. `plan` has count() entries.
  double MeanBits(const PrecisionPlan& plan) const { return plan.MeanBits(num_weights_); }
  // Bytes of planes and scales that one pass of one token at `plan` reads, rows that are scored again included
  // (common/rescoring.h).
  uint64_t BytesRead(const PrecisionPlan& plan) const;
  // Of one layer group; `bits` in [0, kReferencePrecision].
  uint64_t BytesRead(int group, int bits) const {
    return bytes_[static_cast<size_t>(group)][static_cast<size_t>(bits)];
  }
  // Rows of int8 activations that a token's product takes.
  int ActivationRows(int precision) const { return ActivationBits(precision, fine_activations_from_) == 8 ? 1 : 2; }
  // Weights times rows of int8 activations of one token's pass at `plan`, head included.
  double Products(const PrecisionPlan& plan) const;

 private:
  int num_layers_;
  int fine_activations_from_;
  using BytesByBits = std::array<uint64_t, kReferencePrecision + 1>;
  std::vector<BytesByBits> bytes_;  // [count()]
  std::vector<uint64_t> num_weights_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_LAYER_GROUPS_H_
