#include "executor/cuda/cuda_bench_model.h"

#include <algorithm>
#include <vector>

#include "common/precision.h"
#include "common/status_macros.h"

namespace flexquant::executor {
namespace {

constexpr int kMaxRows = cuda::kMaxGemvRows;
constexpr uint32_t kBlockTokens = 16;

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBenchModel>> CudaBenchModel::Create(const DeviceBenchOptions& options) {
  auto model = std::unique_ptr<CudaBenchModel>(new CudaBenchModel(options.config));
  FQ_RETURN_IF_ERROR(model->Initialise(options));
  return model;
}

CudaBenchModel::~CudaBenchModel() {
  forward_.reset();
  if (stream_ != nullptr) {
    cudaStreamDestroy(stream_);
  }
}

int64_t CudaBenchModel::BlocksFor(int64_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

absl::Status CudaBenchModel::Initialise(const DeviceBenchOptions& options) {
  FQ_RETURN_IF_CUDA_ERROR(cudaSetDevice(options.device));
  cudaDeviceProp properties{};
  FQ_RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&properties, options.device));
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
  const uint64_t reserve = CudaForward::WorkspaceBytes(config_, shape) + (uint64_t{2} << 30);
  FQ_ASSIGN_OR_RETURN(weights_, DeviceWeights::Random(config_, options.group_size, reserve, 1));
  size_t free = 0;
  size_t total = 0;
  FQ_RETURN_IF_CUDA_ERROR(cudaMemGetInfo(&free, &total));
  const int64_t block_bytes = config_.num_layers * 2 * config_.kv_size() * kBlockTokens * 2;
  blocks_ = std::min(most_blocks, static_cast<int64_t>(free - std::min<uint64_t>(free, reserve)) / block_bytes);
  shape.kv_blocks = static_cast<uint32_t>(blocks_);
  FQ_ASSIGN_OR_RETURN(forward_, CudaForward::Create(config_, *weights_, shape, stream_));
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

absl::Status CudaBenchModel::Upload(int batch, int64_t context) {
  return arrays_->Upload(batch, BlocksFor(context), stream_);
}

absl::StatusOr<CudaGraph> CudaBenchModel::CaptureDecode(int batch) {
  return CudaGraph::Capture(stream_,
                            [&] { return forward_->LaunchDecode(arrays_->device(), batch, arrays_->results()); });
}

}  // namespace flexquant::executor
