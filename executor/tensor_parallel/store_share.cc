#include "executor/tensor_parallel/store_share.h"

#include <utility>

#include "common/check.h"
#include "common/status_macros.h"

namespace flexquant::executor {
namespace {

Range Scaled(Range range, int64_t factor) { return {range.begin * factor, range.end * factor}; }
Range Shifted(Range range, int64_t by) { return {range.begin + by, range.end + by}; }

// Rows of qkv or gate_up that a rank has.
std::vector<Range> RowShare(LayerGroupKind kind, const ModelConfig& config, const Shard& shard) {
  if (kind == LayerGroupKind::kQkv) {
    const Range kv = Scaled(shard.kv_heads, config.head_dim);
    return {Scaled(shard.heads, config.head_dim), Shifted(kv, config.q_size()),
            Shifted(kv, config.q_size() + config.kv_size())};
  }
  FQ_CHECK(kind == LayerGroupKind::kGateUp);
  return {shard.inner, Shifted(shard.inner, config.intermediate_size)};
}

bool CutByColumns(LayerGroupKind kind) { return kind == LayerGroupKind::kO || kind == LayerGroupKind::kDown; }

}  // namespace

absl::StatusOr<MatrixShare> CopyMatrixShare(const NestedMatrix& whole, LayerGroupKind kind, const ModelConfig& config,
                                            const Shard& shard) {
  if (!CutByColumns(kind)) {
    return MatrixShare::Copy(whole, RowShare(kind, config, shard), {0, whole.cols});
  }
  return MatrixShare::Copy(whole, {Range{0, whole.rows}}, kind == LayerGroupKind::kO ? shard.o_cols : shard.down_cols);
}

std::vector<float> BiasShare(absl::Span<const float> whole, LayerGroupKind kind, const ModelConfig& config,
                             const Shard& shard) {
  std::vector<float> bias;
  if (whole.empty() || (CutByColumns(kind) && shard.rank != 0)) {
    return bias;
  }
  if (CutByColumns(kind)) {
    bias.assign(whole.begin(), whole.end());
    return bias;
  }
  for (const Range& range : RowShare(kind, config, shard)) {
    bias.insert(bias.end(), whole.begin() + range.begin, whole.begin() + range.end);
  }
  return bias;
}

absl::StatusOr<NestedMatrix> StoreShare::AddMatrix(const NestedMatrix& whole, LayerGroupKind kind,
                                                   const ModelConfig& config, const Shard& shard) {
  FQ_ASSIGN_OR_RETURN(MatrixShare share, CopyMatrixShare(whole, kind, config, shard));
  bytes_ += share.bytes();
  matrices_.push_back(std::move(share));
  return matrices_.back().matrix();
}

absl::Span<const float> StoreShare::AddBias(absl::Span<const float> whole, LayerGroupKind kind,
                                            const ModelConfig& config, const Shard& shard) {
  biases_.push_back(BiasShare(whole, kind, config, shard));
  bytes_ += biases_.back().size() * sizeof(float);
  return biases_.back();
}

absl::StatusOr<std::unique_ptr<StoreShare>> StoreShare::Load(const ModelStore& whole, const Shard& shard) {
  auto share = std::unique_ptr<StoreShare>(new StoreShare());
  const ModelConfig& config = whole.config();
  std::vector<BlockWeights> blocks;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    BlockWeights block = whole.block(layer);
    const std::pair<NestedMatrix*, absl::Span<const float>*> parts[] = {{&block.qkv, &block.qkv_bias},
                                                                        {&block.o, &block.o_bias},
                                                                        {&block.gate_up, &block.gate_up_bias},
                                                                        {&block.down, &block.down_bias}};
    for (int kind = 0; kind < kLayerGroupsPerBlock; ++kind) {
      const auto [matrix, bias] = parts[kind];
      FQ_ASSIGN_OR_RETURN(*matrix, share->AddMatrix(*matrix, static_cast<LayerGroupKind>(kind), config, shard));
      *bias = share->AddBias(*bias, static_cast<LayerGroupKind>(kind), config, shard);
    }
    blocks.push_back(block);
  }
  share->store_ = ModelStore::WithWeights(whole, shard.Config(config), std::move(blocks),
                                          RowsOf(whole.embedding(), shard.vocab), RowsOf(whole.lm_head(), shard.vocab));
  return share;
}

}  // namespace flexquant::executor
