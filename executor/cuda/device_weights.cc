#include "executor/cuda/device_weights.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/precision.h"
#include "common/status_macros.h"
#include "common/store/package_layout.h"
#include "executor/cuda/weight_uploader.h"
#include "executor/tensor_parallel/store_share.h"
#include "kernels/cuda/bench_support.h"

namespace flexquant::executor {
namespace {

using cuda::DeviceNestedMatrix;

constexpr size_t kMatrixAlignment = 256;
constexpr size_t kVectorAlignment = 64;  // floats
size_t RoundUp(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }
uint64_t ToMiB(uint64_t bytes) { return (bytes + (uint64_t{1} << 20) - 1) >> 20; }

}  // namespace

const DeviceNestedMatrix& DeviceWeights::layer_group(int index) const {
  const auto layer = static_cast<size_t>(index / kLayerGroupsPerBlock);
  if (layer == blocks_.size()) {
    return lm_head_;
  }
  switch (static_cast<LayerGroupKind>(index % kLayerGroupsPerBlock)) {
    case LayerGroupKind::kQkv:
      return blocks_[layer].qkv;
    case LayerGroupKind::kO:
      return blocks_[layer].o;
    case LayerGroupKind::kGateUp:
      return blocks_[layer].gate_up;
    default:
      return blocks_[layer].down;
  }
}

DeviceWeights::Layout DeviceWeights::LayOutMatrices(const ModelConfig& config, int64_t group_size) {
  Layout layout;
  const auto place = [&](DeviceNestedMatrix& matrix, int64_t rows, int64_t cols, bool paired) {
    matrix = {nullptr, rows, cols, group_size, paired};
    layout.places.emplace_back(&matrix, layout.bytes);
    layout.bytes = RoundUp(layout.bytes + static_cast<size_t>(matrix.bytes()), kMatrixAlignment);
  };
  blocks_.resize(static_cast<size_t>(config.num_layers));
  for (DeviceBlock& block : blocks_) {
    place(block.qkv, config.q_size() + 2 * config.kv_size(), config.hidden_size, false);
    place(block.o, config.hidden_size, config.q_size(), false);
    place(block.gate_up, 2 * config.intermediate_size, config.hidden_size, true);
    place(block.down, config.hidden_size, config.intermediate_size, false);
  }
  place(embedding_, config.vocab_size, config.hidden_size, false);
  if (!config.tied_head) {
    place(lm_head_, config.vocab_size, config.hidden_size, false);
  }
  return layout;
}

uint64_t DeviceWeights::Bytes(const ModelConfig& config, int64_t group_size) {
  DeviceWeights weights;
  uint64_t bytes = weights.LayOutMatrices(config, group_size).bytes;
  for (const VectorSpec& vector : PackageVectors(config)) {
    bytes += RoundUp(static_cast<size_t>(vector.size), kVectorAlignment) * sizeof(float);
  }
  return bytes;
}

uint64_t DeviceWeights::StagingBytes(const ModelConfig& config, int64_t group_size) {
  return WeightUploader::DeviceBytes(WeightUploader::BufferBytes(config, group_size));
}

absl::Status DeviceWeights::CheckFits(uint64_t weight_bytes, uint64_t reserve_bytes, uint64_t free, uint64_t total) {
  if (weight_bytes <= free && reserve_bytes <= free - weight_bytes) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("the weights need ", ToMiB(weight_bytes), " MiB and buffers ", ToMiB(reserve_bytes),
                   " MiB of device memory, but ", ToMiB(free), " of ", ToMiB(total),
                   " MiB are free: ", ToMiB(weight_bytes + reserve_bytes - free), " MiB are missing"));
}

absl::Status DeviceWeights::AllocateMatrices(const ModelConfig& config, int64_t group_size, uint64_t reserve_bytes) {
  if (group_size != 64 && group_size != 128) {
    return absl::InvalidArgumentError(absl::StrCat("the package has groups of ", group_size,
                                                   "; the GPU executor needs 64 or 128: convert it again with "
                                                   "--group-size 64"));
  }
  const Layout layout = LayOutMatrices(config, group_size);
  size_t free = 0;
  size_t total = 0;
  FQ_RETURN_IF_CUDA_ERROR(cudaMemGetInfo(&free, &total));
  FQ_RETURN_IF_ERROR(CheckFits(layout.bytes, reserve_bytes, free, total));
  FQ_ASSIGN_OR_RETURN(matrices_, AllocateDevice(layout.bytes, "weights"));
  for (const auto& [matrix, offset] : layout.places) {
    matrix->data = matrices_.as<uint8_t>() + offset;
  }
  if (config.tied_head) {
    lm_head_ = embedding_;
  }
  return absl::OkStatus();
}

absl::Status DeviceWeights::LoadVectors(const ModelStore& store, const Shard* shard) {
  std::vector<float> host;
  std::vector<std::pair<const float**, size_t>> placed;
  const auto place = [&](absl::Span<const float> vector, const float** pointer) {
    if (!vector.empty()) {
      placed.emplace_back(pointer, host.size());
      host.insert(host.end(), vector.begin(), vector.end());
      host.resize(RoundUp(host.size(), kVectorAlignment));
    }
  };
  const auto place_bias = [&](absl::Span<const float> bias, LayerGroupKind kind, const float** pointer) {
    if (shard == nullptr) {
      place(bias, pointer);
    } else {
      place(BiasShare(bias, kind, store.config(), *shard), pointer);
    }
  };
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    const BlockWeights& from = store.block(static_cast<int64_t>(layer));
    DeviceBlock& to = blocks_[layer];
    place(from.attention_norm, &to.attention_norm);
    place(from.mlp_norm, &to.mlp_norm);
    place(from.q_norm, &to.q_norm);
    place(from.k_norm, &to.k_norm);
    place_bias(from.qkv_bias, LayerGroupKind::kQkv, &to.qkv_bias);
    place_bias(from.o_bias, LayerGroupKind::kO, &to.o_bias);
    place_bias(from.gate_up_bias, LayerGroupKind::kGateUp, &to.gate_up_bias);
    place_bias(from.down_bias, LayerGroupKind::kDown, &to.down_bias);
  }
  place(store.final_norm(), &final_norm_);
  FQ_ASSIGN_OR_RETURN(vectors_, AllocateDevice(host.size() * sizeof(float), "norms and biases"));
  FQ_RETURN_IF_CUDA_ERROR(
      cudaMemcpy(vectors_.as<void>(), host.data(), host.size() * sizeof(float), cudaMemcpyHostToDevice));
  for (const auto& [pointer, offset] : placed) {
    *pointer = vectors_.as<float>() + offset;
  }
  return absl::OkStatus();
}

absl::Status DeviceWeights::LoadMatrices(const ModelStore& store, Progress progress) {
  std::vector<std::pair<const NestedMatrix*, const DeviceNestedMatrix*>> matrices;
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    const BlockWeights& from = store.block(static_cast<int64_t>(layer));
    const DeviceBlock& to = blocks_[layer];
    matrices.insert(matrices.end(),
                    {{&from.qkv, &to.qkv}, {&from.o, &to.o}, {&from.gate_up, &to.gate_up}, {&from.down, &to.down}});
  }
  matrices.emplace_back(&store.embedding(), &embedding_);
  if (!store.config().tied_head) {
    matrices.emplace_back(&store.lm_head(), &lm_head_);
  }
  uint64_t total = 0;
  for (const auto& [from, to] : matrices) {
    total += from->BytesRead(kTopPrecision);
  }
  FQ_ASSIGN_OR_RETURN(const std::unique_ptr<WeightUploader> uploader,
                      WeightUploader::Create(WeightUploader::BufferBytes(store.config(), store.group_size())));
  uint64_t done = 0;
  for (const auto& [from, to] : matrices) {
    FQ_RETURN_IF_ERROR(uploader->Upload(*from, *to, [&](uint64_t bytes) { return progress(done += bytes, total); }));
  }
  return uploader->Finish();
}

absl::Status DeviceWeights::LoadMatrixShares(const ModelStore& store, const Shard& shard) {
  FQ_ASSIGN_OR_RETURN(const std::unique_ptr<WeightUploader> uploader,
                      WeightUploader::Create(WeightUploader::BufferBytes(store.config(), store.group_size())));
  const auto upload = [&](const NestedMatrix& from, const DeviceNestedMatrix& to) {
    return uploader->Upload(from, to, [](uint64_t) { return absl::OkStatus(); });
  };
  for (int group = 0; group + 1 < store.num_layer_groups(); ++group) {
    const auto kind = static_cast<LayerGroupKind>(group % kLayerGroupsPerBlock);
    FQ_ASSIGN_OR_RETURN(const MatrixShare share,
                        CopyMatrixShare(store.layer_group(group), kind, store.config(), shard));
    FQ_RETURN_IF_ERROR(upload(share.matrix(), layer_group(group)));
  }
  FQ_RETURN_IF_ERROR(upload(RowsOf(store.embedding(), shard.vocab), embedding_));
  if (!store.config().tied_head) {
    FQ_RETURN_IF_ERROR(upload(RowsOf(store.lm_head(), shard.vocab), lm_head_));
  }
  return uploader->Finish();
}

absl::StatusOr<std::unique_ptr<DeviceWeights>> DeviceWeights::LoadShare(const ModelStore& store, const Shard& shard,
                                                                        uint64_t reserve_bytes) {
  if (shard.share_attended || shard.share_inner) {
    return absl::InvalidArgumentError(absl::StrCat(
        "with ", shard.ranks, " ranks, ", shard.share_attended ? "heads" : "rows of gate and up",
        " end inside groups of ", store.group_size(), " columns, which only the CPU executor allows; use fewer ranks",
        store.group_size() > 64 ? ", or convert the model again with --group-size 64" : ""));
  }
  auto weights = std::unique_ptr<DeviceWeights>(new DeviceWeights);
  FQ_RETURN_IF_ERROR(weights->AllocateMatrices(shard.Config(store.config()), store.group_size(), reserve_bytes));
  FQ_RETURN_IF_ERROR(weights->LoadVectors(store, &shard));
  FQ_RETURN_IF_ERROR(weights->LoadMatrixShares(store, shard));
  return weights;
}

absl::StatusOr<std::unique_ptr<DeviceWeights>> DeviceWeights::Load(const ModelStore& store, uint64_t reserve_bytes,
                                                                   Progress progress) {
  auto weights = std::unique_ptr<DeviceWeights>(new DeviceWeights);
  FQ_RETURN_IF_ERROR(weights->AllocateMatrices(store.config(), store.group_size(), reserve_bytes));
  FQ_RETURN_IF_ERROR(weights->LoadVectors(store, nullptr));
  FQ_RETURN_IF_ERROR(weights->LoadMatrices(store, progress));
  return weights;
}

absl::StatusOr<std::unique_ptr<DeviceWeights>> DeviceWeights::Random(const ModelConfig& config, int64_t group_size,
                                                                     uint64_t reserve_bytes, uint32_t seed) {
  auto weights = std::unique_ptr<DeviceWeights>(new DeviceWeights);
  FQ_RETURN_IF_ERROR(weights->AllocateMatrices(config, group_size, reserve_bytes));
  const auto fill = [&seed](const DeviceNestedMatrix& matrix) {
    return cuda::LaunchRandomRecords(matrix, ++seed, nullptr);
  };
  // One vector of ones and one of zeros serve all layers.
  const auto ones = static_cast<size_t>(std::max(config.hidden_size, config.head_dim));
  const auto zeros = static_cast<size_t>(
      std::max({config.hidden_size, config.q_size() + 2 * config.kv_size(), 2 * config.intermediate_size}));
  FQ_ASSIGN_OR_RETURN(weights->vectors_, AllocateDeviceZeroed((ones + zeros) * sizeof(float), "norms and biases"));
  float* one = weights->vectors_.as<float>();
  const float* zero = one + ones;
  FQ_RETURN_IF_CUDA_ERROR(cuda::LaunchFill(one, ones, 1.0F, nullptr));
  for (DeviceBlock& block : weights->blocks_) {
    for (const DeviceNestedMatrix* matrix : {&block.qkv, &block.o, &block.gate_up, &block.down}) {
      FQ_RETURN_IF_CUDA_ERROR(fill(*matrix));
    }
    block.attention_norm = one;
    block.mlp_norm = one;
    block.q_norm = config.qk_norm ? one : nullptr;
    block.k_norm = config.qk_norm ? one : nullptr;
    block.qkv_bias = config.qkv_bias ? zero : nullptr;
    block.o_bias = config.o_bias ? zero : nullptr;
    block.gate_up_bias = config.mlp_bias ? zero : nullptr;
    block.down_bias = config.mlp_bias ? zero : nullptr;
  }
  weights->final_norm_ = one;
  FQ_RETURN_IF_CUDA_ERROR(fill(weights->embedding_));
  if (!config.tied_head) {
    FQ_RETURN_IF_CUDA_ERROR(fill(weights->lm_head_));
  }
  FQ_RETURN_IF_CUDA_ERROR(cudaDeviceSynchronize());
  return weights;
}

}  // namespace flexquant::executor
