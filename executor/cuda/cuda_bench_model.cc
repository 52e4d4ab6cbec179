#include "executor/cuda/cuda_bench_model.h"

#include <algorithm>
#include <random>
#include <vector>

#include "absl/strings/numbers.h"
#include "common/precision.h"
#include "common/rescoring.h"
#include "common/status_macros.h"

namespace flexquant::executor {
namespace {

constexpr int kMaxRows = cuda::kMaxGemvRows;
constexpr uint32_t kBlockTokens = 16;

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBenchModel>> CudaBenchModel::Create(const DeviceBenchOptions& options,
                                                                       const CudaRank* rank) {
  auto model = std::unique_ptr<CudaBenchModel>(new CudaBenchModel(
      rank == nullptr ? options.config : rank->shards[static_cast<size_t>(rank->rank)].Config(options.config)));
  FQ_RETURN_IF_ERROR(model->Initialise(options, rank));
  return model;
}

CudaBenchModel::~CudaBenchModel() {
  forward_.reset();
  if (stream_ != nullptr) {
    cudaStreamDestroy(stream_);
  }
}

int64_t CudaBenchModel::BlocksFor(int64_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

absl::Status CudaBenchModel::Initialise(const DeviceBenchOptions& options, const CudaRank* rank) {
  const int device = rank == nullptr ? options.device : rank->devices[static_cast<size_t>(rank->rank)];
  FQ_RETURN_IF_CUDA_ERROR(cudaSetDevice(device));
  cudaDeviceProp properties{};
  FQ_RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&properties, device));
  device_ = properties.name;
  FQ_RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));

  int64_t longest = 1;
  int64_t most_blocks = 1;
  for (const int64_t context : options.contexts) {
    longest = std::max(longest, context);
    for (const int batch : options.batches) {
      most_blocks = std::max(most_blocks, batch * BlocksFor(context));
    }
  }
  int64_t rows = kMaxRows;
  for (const int chunk : options.prefill_rows) {
    rows = std::max<int64_t>(rows, chunk);
  }
  longest = std::max(longest, rows);
  most_blocks = std::max(most_blocks, BlocksFor(rows));

  CudaForwardShape shape;
  shape.kv_block_tokens = kBlockTokens;
  shape.max_context = longest;
  shape.max_rows = rows;
  shape.portable = options.portable || !cuda::HopperPathSupported();
  shape.keep_low_columns = options.keep_low_columns;
  shape.fine_activations_from = options.fine_activations_from;
  ForwardRank forward_rank;
  if (rank != nullptr) {
    FQ_ASSIGN_OR_RETURN(peers_, PeerRanks::Create(*rank->group, rank->rank, rank->devices, rank->timeout));
    forward_rank = {peers_.get(), rank->rank, options.config.vocab_size,
                    rank->shards[static_cast<size_t>(rank->rank)].vocab.begin};
  }
  const uint64_t reserve = CudaForward::WorkspaceBytes(config_, shape, forward_rank) + (uint64_t{2} << 30);
  FQ_ASSIGN_OR_RETURN(weights_, DeviceWeights::Random(config_, options.group_size, reserve, 1));
  size_t free = 0;
  size_t total = 0;
  FQ_RETURN_IF_CUDA_ERROR(cudaMemGetInfo(&free, &total));
  const int64_t block_bytes = config_.num_layers * 2 * config_.kv_size() * kBlockTokens * 2;
  blocks_ = std::min(most_blocks, static_cast<int64_t>(free - std::min<uint64_t>(free, reserve)) / block_bytes);
  if (peers_ != nullptr) {
    FQ_ASSIGN_OR_RETURN(const uint64_t least, peers_->Least(static_cast<uint64_t>(blocks_)));
    blocks_ = static_cast<int64_t>(least);
  }
  shape.kv_blocks = static_cast<uint32_t>(blocks_);
  FQ_ASSIGN_OR_RETURN(forward_, CudaForward::Create(config_, *weights_, shape, stream_, forward_rank));
  groups_ = NumLayerGroups(static_cast<int>(config_.num_layers));
  FQ_ASSIGN_OR_RETURN(arrays_, StepArrays::Create({groups_, rows, kMaxRows, BlocksFor(longest)}));
  return absl::OkStatus();
}

uint32_t CudaBenchModel::RandomToken() {
  return static_cast<uint32_t>(random_() % static_cast<uint64_t>(config_.vocab_size));
}

void CudaBenchModel::SetSequences(int batch, int64_t context) {
  const int64_t blocks = BlocksFor(context);
  std::vector<uint32_t> table(static_cast<size_t>(blocks));
  for (int row = 0; row < batch; ++row) {
    for (int64_t i = 0; i < blocks; ++i) {
      table[static_cast<size_t>(i)] = static_cast<uint32_t>(row * blocks + i);
    }
    arrays_->SetBlockTable(row, table);
    arrays_->tokens()[row] = RandomToken();
    arrays_->positions()[row] = static_cast<int32_t>(context - 1);
    arrays_->sampling()[row] = cuda::RowSampling{};
  }
  *arrays_->num_rows() = batch;
}

BytesByKind CudaBenchModel::SetWidths(int batch, const std::string& plan) {
  BytesByKind bytes{};
  std::mt19937 random(1);
  int uniform = 0;  // unless one is drawn
  (void)absl::SimpleAtoi(plan, &uniform);
  for (int group = 0; group < groups_; ++group) {
    const auto draw = [&random] { return kPrecisions[random() % kPrecisions.size()]; };
    const int for_all = plan == "mixed" ? draw() : uniform;
    int most = 0;
    for (int row = 0; row < batch; ++row) {
      const int bits = plan == "isolated" ? draw() : for_all;
      arrays_->widths()[group * kMaxRows + row] = static_cast<uint8_t>(bits);
      most = std::max(most, bits);
    }
    const LayerGroupKind kind = LayerGroupKindOf(group, static_cast<int>(config_.num_layers));
    bytes[static_cast<size_t>(kind)] += static_cast<double>(weights_->layer_group(group).BytesRead(most));
  }
  const uint8_t* head = arrays_->widths() + (groups_ - 1) * kMaxRows;
  bytes[static_cast<size_t>(LayerGroupKind::kLmHead)] +=
      static_cast<double>(forward_->RescoringBytes(std::count_if(head, head + batch, IsRescored)));
  return bytes;
}

absl::Status CudaBenchModel::Upload(int batch, int64_t context) {
  return arrays_->Upload(batch, BlocksFor(context), stream_);
}

absl::StatusOr<CudaGraph> CudaBenchModel::CaptureDecode(int batch, LaunchObserver* observer) {
  return CudaGraph::Capture(
      stream_, [&] { return forward_->LaunchDecode(arrays_->device(), batch, arrays_->results(), observer); });
}

}  // namespace flexquant::executor
