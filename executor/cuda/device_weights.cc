#include "executor/cuda/device_weights.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/precision.h"
#include "common/status_macros.h"
#include "kernels/cuda/bench_support.h"
#include "kernels/cuda/repack.h"

namespace flexquant::executor {
namespace {

using cuda::DeviceNestedMatrix;

constexpr size_t kMatrixAlignment = 256;
constexpr size_t kVectorAlignment = 64;  // floats
constexpr size_t kStagingBytes = size_t{32} << 20;
constexpr size_t kStagingBuffers = 2;

size_t RoundUp(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }
uint64_t ToMiB(uint64_t bytes) { return (bytes + (uint64_t{1} << 20) - 1) >> 20; }

struct Plane {
  const uint8_t* data;
  size_t tile_bytes;
};

// In the order of StagedPlanes' pointers.
std::array<Plane, 6> PlanesOf(const NestedMatrix& w) {
  const auto word = static_cast<size_t>(w.units() * kPlaneWordBytes);
  return {{{w.base3, 3 * word},
           {w.bit4, word},
           {w.bit5, word},
           {w.bit6, word},
           {w.bits78, 2 * word},
           {reinterpret_cast<const uint8_t*>(w.scales), static_cast<size_t>(w.groups()) * 64}}};
}

// Copies tiles of matrices to the device in pieces through two pinned buffers, so that reading the file, the bus and
// repacking overlap.
class Uploader {
 public:
  static absl::StatusOr<std::unique_ptr<Uploader>> Create() {
    auto uploader = std::unique_ptr<Uploader>(new Uploader);
    for (Stage& stage : uploader->stages_) {
      FQ_ASSIGN_OR_RETURN(stage.host, AllocatePinned(kStagingBytes, "staging of weights"));
      FQ_ASSIGN_OR_RETURN(stage.device, AllocateDevice(kStagingBytes, "staging of weights"));
      FQ_RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&stage.done, cudaEventDisableTiming));
    }
    FQ_RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&uploader->stream_, cudaStreamNonBlocking));
    return uploader;
  }
  ~Uploader() {
    for (const Stage& stage : stages_) {
      if (stage.done != nullptr) {
        cudaEventDestroy(stage.done);
      }
    }
    if (stream_ != nullptr) {
      cudaStreamDestroy(stream_);
    }
  }
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  absl::Status Upload(const NestedMatrix& from, const DeviceNestedMatrix& to) {
    FQ_RETURN_IF_CUDA_ERROR(cuda::LaunchRepackClear(to, stream_));
    size_t tile_bytes = 0;
    for (const Plane& plane : PlanesOf(from)) {
      tile_bytes += plane.tile_bytes;
    }
    const auto tiles_a_piece =
        std::max<int64_t>(1, static_cast<int64_t>((kStagingBytes - 6 * kMatrixAlignment) / tile_bytes));
    for (int64_t tile = 0; tile < from.tiles(); tile += tiles_a_piece) {
      FQ_RETURN_IF_ERROR(UploadPiece(from, to, tile, std::min(tiles_a_piece, from.tiles() - tile)));
    }
    return absl::OkStatus();
  }

  absl::Status Finish() { return CudaStatus(cudaStreamSynchronize(stream_), "uploading weights"); }

 private:
  struct Stage {
    PinnedBuffer host;
    DeviceBuffer device;
    cudaEvent_t done = nullptr;
  };

  Uploader() = default;

  absl::Status UploadPiece(const NestedMatrix& from, const DeviceNestedMatrix& to, int64_t first, int64_t count) {
    Stage& stage = stages_[next_++ % kStagingBuffers];
    FQ_RETURN_IF_CUDA_ERROR(cudaEventSynchronize(stage.done));
    std::array<const uint8_t*, 6> staged{};
    size_t used = 0;
    size_t index = 0;
    for (const Plane& plane : PlanesOf(from)) {
      const size_t bytes = static_cast<size_t>(count) * plane.tile_bytes;
      FQ_CHECK(used + bytes <= kStagingBytes);
      std::memcpy(stage.host.as<uint8_t>() + used, plane.data + static_cast<size_t>(first) * plane.tile_bytes, bytes);
      staged[index++] = stage.device.as<uint8_t>() + used;
      used = RoundUp(used + bytes, kMatrixAlignment);
    }
    FQ_RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(stage.device.as<void>(), stage.host.as<void>(),
                                            std::min(used, kStagingBytes), cudaMemcpyHostToDevice, stream_));
    const cuda::StagedPlanes planes{first,     count,     staged[0], staged[1],
                                    staged[2], staged[3], staged[4], reinterpret_cast<const uint16_t*>(staged[5])};
    FQ_RETURN_IF_CUDA_ERROR(cuda::LaunchRepack(planes, to, stream_));
    return CudaStatus(cudaEventRecord(stage.done, stream_), "cudaEventRecord");
  }

  std::array<Stage, kStagingBuffers> stages_;
  cudaStream_t stream_ = nullptr;
  size_t next_ = 0;
};

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

absl::Status DeviceWeights::AllocateMatrices(const ModelConfig& config, int64_t group_size, uint64_t reserve_bytes) {
  if (group_size != 64 && group_size != 128) {
    return absl::InvalidArgumentError(absl::StrCat("the package has groups of ", group_size,
                                                   "; the GPU executor needs 64 or 128: convert it again with "
                                                   "--group-size 64"));
  }
  std::vector<std::pair<DeviceNestedMatrix*, size_t>> placed;
  size_t bytes = 0;
  const auto place = [&](DeviceNestedMatrix& matrix, int64_t rows, int64_t cols, bool paired) {
    matrix.rows = rows;
    matrix.cols = cols;
    matrix.group_size = group_size;
    matrix.paired = paired;
    placed.emplace_back(&matrix, bytes);
    bytes = RoundUp(bytes + static_cast<size_t>(matrix.bytes()), kMatrixAlignment);
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
  size_t free = 0;
  size_t total = 0;
  FQ_RETURN_IF_CUDA_ERROR(cudaMemGetInfo(&free, &total));
  if (bytes + reserve_bytes > free) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the weights need ", ToMiB(bytes), " MiB and buffers ", ToMiB(reserve_bytes), " MiB of device memory, but ",
        ToMiB(free), " of ", ToMiB(total), " MiB are free: ", ToMiB(bytes + reserve_bytes - free), " MiB are missing"));
  }
  FQ_ASSIGN_OR_RETURN(matrices_, AllocateDevice(bytes, "weights"));
  for (const auto& [matrix, offset] : placed) {
    matrix->data = matrices_.as<uint8_t>() + offset;
  }
  if (config.tied_head) {
    lm_head_ = embedding_;
  }
  return absl::OkStatus();
}

absl::Status DeviceWeights::LoadVectors(const ModelStore& store) {
  std::vector<float> host;
  std::vector<std::pair<const float**, size_t>> placed;
  const auto place = [&](absl::Span<const float> vector, const float** pointer) {
    if (!vector.empty()) {
      placed.emplace_back(pointer, host.size());
      host.insert(host.end(), vector.begin(), vector.end());
      host.resize(RoundUp(host.size(), kVectorAlignment));
    }
  };
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    const BlockWeights& from = store.block(static_cast<int64_t>(layer));
    DeviceBlock& to = blocks_[layer];
    place(from.attention_norm, &to.attention_norm);
    place(from.mlp_norm, &to.mlp_norm);
    place(from.q_norm, &to.q_norm);
    place(from.k_norm, &to.k_norm);
    place(from.qkv_bias, &to.qkv_bias);
    place(from.o_bias, &to.o_bias);
    place(from.gate_up_bias, &to.gate_up_bias);
    place(from.down_bias, &to.down_bias);
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

absl::Status DeviceWeights::LoadMatrices(const ModelStore& store) {
  FQ_ASSIGN_OR_RETURN(const std::unique_ptr<Uploader> uploader, Uploader::Create());
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    const BlockWeights& from = store.block(static_cast<int64_t>(layer));
    const DeviceBlock& to = blocks_[layer];
    FQ_RETURN_IF_ERROR(uploader->Upload(from.qkv, to.qkv));
    FQ_RETURN_IF_ERROR(uploader->Upload(from.o, to.o));
    FQ_RETURN_IF_ERROR(uploader->Upload(from.gate_up, to.gate_up));
    FQ_RETURN_IF_ERROR(uploader->Upload(from.down, to.down));
  }
  FQ_RETURN_IF_ERROR(uploader->Upload(store.embedding(), embedding_));
  if (!store.config().tied_head) {
    FQ_RETURN_IF_ERROR(uploader->Upload(store.lm_head(), lm_head_));
  }
  return uploader->Finish();
}

absl::StatusOr<std::unique_ptr<DeviceWeights>> DeviceWeights::Load(const ModelStore& store, uint64_t reserve_bytes) {
  auto weights = std::unique_ptr<DeviceWeights>(new DeviceWeights);
  FQ_RETURN_IF_ERROR(weights->AllocateMatrices(store.config(), store.group_size(), reserve_bytes));
  FQ_RETURN_IF_ERROR(weights->LoadVectors(store));
  FQ_RETURN_IF_ERROR(weights->LoadMatrices(store));
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
