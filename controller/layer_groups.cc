#include "controller/layer_groups.h"

#include "common/check.h"
#include "common/rescoring.h"

namespace flexquant::controller {

LayerGroups::LayerGroups(const ModelConfig& config, int64_t group_size, Dtype reference_dtype,
                         int fine_activations_from)
    : num_layers_(static_cast<int>(config.num_layers)), fine_activations_from_(fine_activations_from) {
  const auto add = [&](int64_t rows, int64_t cols) {
    NestedMatrix shape;
    shape.rows = rows;
    shape.cols = cols;
    shape.group_size = group_size;
    shape.reference_dtype = reference_dtype;
    num_weights_.push_back(shape.num_weights());
    BytesByBits& bytes = bytes_.emplace_back();
    for (int bits = 0; bits <= kReferencePrecision; ++bits) {
      bytes[static_cast<size_t>(bits)] = shape.BytesRead(bits);
    }
  };
  for (int layer = 0; layer < num_layers_; ++layer) {
    add(config.q_size() + 2 * config.kv_size(), config.hidden_size);
    add(config.hidden_size, config.q_size());
    add(2 * config.intermediate_size, config.hidden_size);
    add(config.hidden_size, config.intermediate_size);
  }
  add(config.vocab_size, config.hidden_size);
  NestedMatrix head;
  head.rows = config.vocab_size;
  head.cols = config.hidden_size;
  head.group_size = group_size;
  for (const int bits : kPrecisions) {
    bytes_.back()[static_cast<size_t>(bits)] = HeadBytesRead(head, bits);
  }
}

uint64_t LayerGroups::BytesRead(const PrecisionPlan& plan) const {
  FQ_CHECK(plan.bits.size() == bytes_.size());
  uint64_t bytes = 0;
  for (size_t group = 0; group < bytes_.size(); ++group) {
    bytes += bytes_[group][plan.bits[group]];
  }
  return bytes;
}

double LayerGroups::Products(const PrecisionPlan& plan) const {
  FQ_CHECK(plan.bits.size() == num_weights_.size());
  double products = 0;
  for (size_t group = 0; group < num_weights_.size(); ++group) {
    products += static_cast<double>(num_weights_[group]) * ActivationRows(plan.bits[group]);
  }
  return products;
}

}  // namespace flexquant::controller
