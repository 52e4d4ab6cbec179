#include "executor/cuda/cuda_model_runner.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/precision.h"
#include "common/rescoring.h"
#include "common/status_macros.h"
#include "executor/kv_cache.h"

namespace flexquant::executor {
namespace {

constexpr int kMaxRows = cuda::kMaxGemvRows;
constexpr std::array<int, 7> kBuckets = {1, 2, 4, 8, 16, 32, 64};
constexpr uint32_t kMaxStepTokens = 65536;
// Left free for the driver, graphs and cuBLAS.
constexpr uint64_t kSpareBytes = uint64_t{256} << 20;

bool HasPenalties(const SamplingConfig& config) {
  return config.repetition_penalty != 1 || config.presence_penalty != 0 || config.frequency_penalty != 0;
}

cuda::RowSampling SamplingOf(const SequenceInput& sequence, int slot) {
  cuda::RowSampling row;
  row.sample = 0;
  if (sequence.sample.has_value()) {
    const SamplingConfig& config = *sequence.sample->config;
    row.sample = 1;
    row.temperature = config.temperature;
    row.top_p = config.top_p;
    row.min_p = config.min_p;
    row.repetition_penalty = config.repetition_penalty;
    row.presence_penalty = config.presence_penalty;
    row.frequency_penalty = config.frequency_penalty;
    row.top_k = config.top_k;
    row.top_logprobs = sequence.sample->top_logprobs;
    row.seed = config.seed;
    row.draw = sequence.sample->draw;
    row.count_slot = HasPenalties(config) ? slot : -1;
  }
  return row;
}

SampledToken ToSampledToken(const cuda::RowSample& row) {
  SampledToken token;
  token.id = row.token;
  token.logprob = row.logprob;
  token.stats.max_logit = row.max_logit;
  token.stats.log_sum_exp = row.log_sum_exp;
  token.stats.entropy_nats = row.entropy_nats;
  token.stats.top1_probability = row.top1_probability;
  token.stats.margin = row.margin;
  token.stats.argmax = row.argmax;
  for (uint32_t i = 0; i < row.num_top; ++i) {
    token.top.emplace_back(row.top[i].id, row.top[i].logprob);
  }
  return token;
}

absl::Status CheckOptions(const CudaRunnerOptions& options, const ModelConfig& config) {
  if (options.kv_block_tokens != 16 && options.kv_block_tokens != 32) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV blocks of ", options.kv_block_tokens, " tokens; the GPU executor allows 16 and 32"));
  }
  if (options.max_sequences < 1 || options.max_sequences > kMaxRows) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_sequences is ", options.max_sequences, "; the GPU executor allows 1 to ", kMaxRows));
  }
  if (options.max_step_tokens < 1 || options.max_step_tokens > kMaxStepTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_step_tokens is ", options.max_step_tokens, "; allowed: 1 to ", kMaxStepTokens));
  }
  if (config.head_dim % 4 != 0 || config.head_dim > 256) {
    return absl::InvalidArgumentError(absl::StrCat("the model's heads have ", config.head_dim,
                                                   " elements; the GPU executor needs a multiple of 4 up to 256"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaModelRunner>> CudaModelRunner::Create(const ModelStore& store,
                                                                         const CudaRunnerOptions& options) {
  auto runner = std::unique_ptr<CudaModelRunner>(new CudaModelRunner(store));
  FQ_RETURN_IF_ERROR(runner->Initialise(options, nullptr));
  return runner;
}

absl::StatusOr<std::unique_ptr<CudaModelRunner>> CudaModelRunner::CreateRank(const ModelStore& store,
                                                                             const CudaRunnerOptions& options,
                                                                             const CudaRank& rank) {
  auto runner = std::unique_ptr<CudaModelRunner>(new CudaModelRunner(store));
  FQ_RETURN_IF_ERROR(runner->Initialise(options, &rank));
  return runner;
}

absl::Status CudaModelRunner::CheckDevice(int device) {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaSuccess && device < devices) {
    return absl::OkStatus();
  }
  return absl::NotFoundError(
      absl::StrCat("there is no device cuda:", device, ": ",
                   error != cudaSuccess ? cudaGetErrorString(error) : absl::StrCat(devices, " devices").c_str(),
                   "; nvidia-smi lists them"));
}

CudaModelRunner::~CudaModelRunner() {
  if (stream_ != nullptr) {
    cudaStreamSynchronize(stream_);
  }
  graphs_.clear();
  forward_.reset();
  if (stream_ != nullptr) {
    cudaStreamDestroy(stream_);
  }
}

absl::Status CudaModelRunner::Initialise(CudaRunnerOptions options, const CudaRank* rank) {
  const ModelConfig& config = store_.config();
  FQ_RETURN_IF_ERROR(CheckOptions(options, config));
  if (rank != nullptr) {
    options.device = rank->devices[static_cast<size_t>(rank->rank)];
  }
  FQ_RETURN_IF_ERROR(CheckDevice(options.device));
  device_ = options.device;
  FQ_RETURN_IF_CUDA_ERROR(cudaSetDevice(device_));
  cudaDeviceProp properties{};
  FQ_RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&properties, options.device));
  if (properties.major < 8) {
    return absl::InvalidArgumentError(absl::StrCat(properties.name, " has compute capability ", properties.major, ".",
                                                   properties.minor, "; 8.0 is the least"));
  }
  FQ_RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));

  CudaForwardShape shape;
  shape.kv_block_tokens = options.kv_block_tokens;
  shape.max_context = config.max_context;
  shape.max_rows = options.max_step_tokens;
  shape.portable = options.portable || !cuda::HopperPathSupported();
  shape.rescore = options.rescore;
  shape.fine_activations_from = store_.fine_activations_from();
  FQ_RETURN_IF_ERROR(Load(options, rank, shape));

  info_.device =
      absl::StrCat("cuda:", options.device, " ", properties.name, shape.portable ? ", portable kernels" : "");
  info_.num_layer_groups = store_.num_layer_groups();
  info_.has_reference = false;
  info_.vocab_size = config.vocab_size;
  info_.max_context = config.max_context;
  info_.kv_block_tokens = options.kv_block_tokens;
  info_.max_sequences = options.max_sequences;
  info_.max_step_tokens = options.max_step_tokens;
  info_.audits = true;

  StepArrays::Shape arrays;
  arrays.num_layer_groups = info_.num_layer_groups;
  arrays.blocks_a_sequence = (config.max_context + options.kv_block_tokens - 1) / options.kv_block_tokens;
  arrays.max_rows = kMaxRows;
  arrays.max_sequences = kMaxRows;
  FQ_ASSIGN_OR_RETURN(decode_arrays_, StepArrays::Create(arrays));
  arrays.max_rows = std::max<int64_t>(kMaxRows, options.max_step_tokens);
  arrays.max_sequences = 1;
  FQ_ASSIGN_OR_RETURN(prefill_arrays_, StepArrays::Create(arrays));
  // At most every token in the KV cache, once as a distinct one and once as one of its answer.
  const size_t count_bytes =
      2 * (static_cast<size_t>(info_.kv_blocks) * options.kv_block_tokens + kMaxRows) * sizeof(uint32_t);
  FQ_ASSIGN_OR_RETURN(count_tokens_, AllocateDevice(count_bytes, "penalties"));
  FQ_ASSIGN_OR_RETURN(count_staging_, AllocatePinned(count_bytes, "penalties"));
  return CaptureGraphs();
}

absl::Status CudaModelRunner::Load(const CudaRunnerOptions& options, const CudaRank* rank, CudaForwardShape shape) {
  if (rank != nullptr) {
    const Shard& shard = rank->shards[static_cast<size_t>(rank->rank)];
    config_ = shard.Config(store_.config());
    FQ_ASSIGN_OR_RETURN(peers_, PeerRanks::Create(*rank->group, rank->rank, rank->devices, rank->timeout));
    forward_rank_ = {peers_.get(), rank->rank, store_.config().vocab_size, shard.vocab.begin};
  }
  const uint64_t reserve = CudaForward::WorkspaceBytes(config_, shape, forward_rank_) + kSpareBytes;
  FQ_ASSIGN_OR_RETURN(weights_, rank == nullptr ? DeviceWeights::Load(store_, reserve)
                                                : DeviceWeights::LoadShare(
                                                      store_, rank->shards[static_cast<size_t>(rank->rank)], reserve));
  FQ_ASSIGN_OR_RETURN(shape.kv_blocks, PlanKvBlocks(options, rank, reserve));
  info_.kv_blocks = shape.kv_blocks;
  FQ_ASSIGN_OR_RETURN(forward_, CudaForward::Create(config_, *weights_, shape, stream_, forward_rank_));
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> CudaModelRunner::PlanKvBlocks(const CudaRunnerOptions& options, const CudaRank* rank,
                                                       uint64_t reserve) {
  uint64_t cache_bytes = options.kv_cache_bytes;
  uint64_t sharers = 1;
  if (rank != nullptr) {
    // Every rank has its weights before any looks at what is left, and all have looked before any takes of it.
    FQ_RETURN_IF_ERROR(peers_->WaitOnHost());
    sharers = static_cast<uint64_t>(peers_->ranks_on_device());
    int64_t all_heads = 0;
    for (const Shard& shard : rank->shards) {
      all_heads += shard.kv_heads.size();
    }
    const uint64_t head_bytes =
        KvCache::Shape{config_.num_layers, 1, config_.head_dim, options.kv_block_tokens, 1}.BlockBytes();
    cache_bytes = cache_bytes / (head_bytes * static_cast<uint64_t>(all_heads)) * head_bytes *
                  static_cast<uint64_t>(config_.num_kv_heads);
    if (options.kv_cache_bytes > 0 && cache_bytes == 0) {
      cache_bytes = 1;  // too little for a block: refused below
    }
  }
  size_t free = 0;
  size_t total = 0;
  FQ_RETURN_IF_CUDA_ERROR(cudaMemGetInfo(&free, &total));
  const uint64_t available = free / sharers > reserve ? free / sharers - reserve : 0;
  FQ_ASSIGN_OR_RETURN(const KvCache::Shape kv, KvCache::Plan(config_, options.kv_block_tokens, cache_bytes, available));
  if (rank == nullptr) {
    return kv.num_blocks;
  }
  FQ_ASSIGN_OR_RETURN(const uint64_t least, peers_->Least(kv.num_blocks));
  return static_cast<uint32_t>(least);
}

uint32_t CudaModelRunner::EmbeddingRow(uint32_t token) const {
  const int64_t row = static_cast<int64_t>(token) - forward_rank_.vocab_begin;
  return row >= 0 && row < config_.vocab_size ? static_cast<uint32_t>(row) : UINT32_MAX;
}

absl::Status CudaModelRunner::CaptureGraphs() {
  for (const int bucket : kBuckets) {
    FQ_ASSIGN_OR_RETURN(CudaGraph graph, CudaGraph::Capture(stream_, [&] {
                          return forward_->LaunchDecode(decode_arrays_->device(), bucket, decode_arrays_->results());
                        }));
    FQ_RETURN_IF_CUDA_ERROR(cudaGraphUpload(graph.exec(), stream_));
    graphs_.push_back({bucket, std::move(graph)});
  }
  return CudaStatus(cudaStreamSynchronize(stream_), "uploading graphs");
}

absl::Status CudaModelRunner::RunStep(const StepBatch& batch, StepOutput* output) {
  FQ_RETURN_IF_ERROR(Health());
  FQ_RETURN_IF_ERROR(ValidateBatch(batch, info_));
  absl::Status status = RunStepOnDevice(batch, output);
  if (peers_ != nullptr) {
    if (!status.ok()) {
      // The others wait for this rank on their devices. Nothing of this rank runs when it returns.
      peers_->Abort();
      cudaStreamSynchronize(stream_);
    } else {
      status = peers_->Check();
    }
  }
  if (!status.ok()) {
    const std::lock_guard lock(health_mutex_);
    health_ = status;
  }
  return status;
}

absl::Status CudaModelRunner::RunStepOnDevice(const StepBatch& batch, StepOutput* output) {
  // Steps come from any thread, and the current device is the thread's.
  FQ_RETURN_IF_CUDA_ERROR(cudaSetDevice(device_));
  counts_staged_ = 0;
  output->sequences.assign(batch.sequences.size(), SequenceOutput());
  output->weight_bytes_read = 0;
  logits_.assign(batch.sequences.size(), {});
  std::vector<size_t> decoded;
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    if (batch.sequences[s].tokens.size() == 1) {
      decoded.push_back(s);
    }
  }
  if (!decoded.empty()) {
    FQ_RETURN_IF_ERROR(RunDecode(batch, decoded, output));
    CountBytes(batch, decoded, output);
  }
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    if (batch.sequences[s].tokens.size() > 1) {
      FQ_RETURN_IF_ERROR(RunPrefill(batch.sequences[s], &logits_[s], &output->sequences[s]));
      CountBytes(batch, {s}, output);
    }
  }
  return absl::OkStatus();
}

absl::Status CudaModelRunner::RunDecode(const StepBatch& batch, const std::vector<size_t>& sequences,
                                        StepOutput* output) {
  StepArrays& arrays = *decode_arrays_;
  const auto count = static_cast<int>(sequences.size());
  int64_t blocks = 0;
  for (int row = 0; row < count; ++row) {
    const SequenceInput& sequence = batch.sequences[sequences[static_cast<size_t>(row)]];
    arrays.tokens()[row] = EmbeddingRow(sequence.tokens[0]);
    arrays.positions()[row] = static_cast<int32_t>(sequence.start);
    cuda::RowSampling sampling = SamplingOf(sequence, row);
    if (!sequence.score_targets.empty()) {
      sampling.score_target = static_cast<int32_t>(sequence.score_targets[0]);
    }
    arrays.sampling()[row] = sampling;
    for (int group = 0; group < info_.num_layer_groups; ++group) {
      arrays.widths()[group * kMaxRows + row] = sequence.plan->bits[static_cast<size_t>(group)];
    }
    const size_t used = static_cast<size_t>(sequence.start) / info_.kv_block_tokens + 1;
    arrays.SetBlockTable(row, sequence.block_table.first(used));
    blocks = std::max(blocks, static_cast<int64_t>(used));
    if (sampling.count_slot >= 0 && HasResults()) {
      FQ_RETURN_IF_ERROR(UploadCounts(*sequence.sample, row));
    }
  }
  *arrays.num_rows() = count;
  FQ_RETURN_IF_ERROR(arrays.Upload(count, blocks, stream_));
  const auto graph =
      std::find_if(graphs_.begin(), graphs_.end(), [count](const BucketGraph& g) { return g.bucket >= count; });
  FQ_RETURN_IF_ERROR(graph->graph.Launch(stream_));
  FQ_RETURN_IF_ERROR(WaitForLaunches());
  if (!HasResults()) {
    return CudaStatus(cudaStreamSynchronize(stream_), "a step");
  }
  for (int row = 0; row < count; ++row) {
    const size_t s = sequences[static_cast<size_t>(row)];
    if (batch.sequences[s].num_logits > 0) {
      logits_[s].resize(static_cast<size_t>(info_.vocab_size));
      FQ_RETURN_IF_ERROR(CopyLogits(row, 1, logits_[s].data()));
    }
  }
  FQ_RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  for (int row = 0; row < count; ++row) {
    const size_t s = sequences[static_cast<size_t>(row)];
    const SequenceInput& sequence = batch.sequences[s];
    const cuda::RowSample& result = arrays.results()[row];
    SequenceOutput& out = output->sequences[s];
    if ((result.flags & cuda::kSampleNotFinite) != 0) {
      out.status = LogitsNotFiniteError();
      continue;
    }
    if (sequence.sample.has_value()) {
      out.token = ToSampledToken(result);
    }
    if (!sequence.score_targets.empty()) {
      out.scores.push_back(result.score);
    }
    out.logits = logits_[s];
  }
  return absl::OkStatus();
}

absl::Status CudaModelRunner::RunPrefill(const SequenceInput& sequence, std::vector<float>* logits,
                                         SequenceOutput* output) {
  StepArrays& arrays = *prefill_arrays_;
  const auto rows = static_cast<int>(sequence.tokens.size());
  for (int row = 0; row < rows; ++row) {
    arrays.tokens()[row] = EmbeddingRow(sequence.tokens[static_cast<size_t>(row)]);
    arrays.positions()[row] = static_cast<int32_t>(sequence.start + row);
  }
  *arrays.num_rows() = rows;
  arrays.row_starts()[0] = 0;
  arrays.row_starts()[1] = rows;
  *arrays.start_position() = static_cast<int32_t>(sequence.start);
  for (int group = 0; group < info_.num_layer_groups; ++group) {
    std::fill_n(arrays.widths() + group * kMaxRows, kMaxRows, sequence.plan->bits[static_cast<size_t>(group)]);
  }
  const size_t used = static_cast<size_t>(sequence.start + rows - 1) / info_.kv_block_tokens + 1;
  arrays.SetBlockTable(0, sequence.block_table.first(used));
  FQ_RETURN_IF_ERROR(arrays.Upload(1, static_cast<int64_t>(used), stream_));
  FQ_RETURN_IF_ERROR(forward_->LaunchPrefill(arrays.device(), rows, sequence.plan->bits));

  logits->resize(static_cast<size_t>(sequence.num_logits * info_.vocab_size));
  // Ranks take the same steps, whatever rank 0 sees.
  const bool all_rows = peers_ != nullptr;
  for (int64_t first = rows - sequence.NumHeadRows(); first < rows && (all_rows || output->status.ok());
       first += kMaxRows) {
    // What was queued reads the arrays: wait before they change.
    FQ_RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
    const auto count = static_cast<int>(std::min<int64_t>(kMaxRows, rows - first));
    FQ_RETURN_IF_ERROR(RunHead(sequence, first, count, logits->data(), output));
  }
  FQ_RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  if (output->status.ok()) {
    output->logits = *logits;
  }
  return absl::OkStatus();
}

absl::Status CudaModelRunner::RunHead(const SequenceInput& sequence, int64_t first, int count, float* logits,
                                      SequenceOutput* output) {
  StepArrays& arrays = *prefill_arrays_;
  const auto rows = static_cast<int64_t>(sequence.tokens.size());
  *arrays.num_rows() = count;
  for (int i = 0; i < count; ++i) {
    cuda::RowSampling& row = arrays.sampling()[i];
    row = {};
    row.sample = 0;
    if (first + i == rows - 1) {
      row = SamplingOf(sequence, i);
    }
    if (!sequence.score_targets.empty()) {
      row.score_target = static_cast<int32_t>(sequence.score_targets[static_cast<size_t>(first + i)]);
    }
    if (row.count_slot >= 0 && HasResults()) {
      FQ_RETURN_IF_ERROR(UploadCounts(*sequence.sample, i));
    }
  }
  FQ_RETURN_IF_ERROR(arrays.Upload(1, 1, stream_));
  FQ_RETURN_IF_ERROR(forward_->LaunchHead(arrays.device(), first, count, arrays.results()));
  FQ_RETURN_IF_ERROR(WaitForLaunches());
  if (!HasResults()) {
    return CudaStatus(cudaStreamSynchronize(stream_), "the head");
  }
  const int64_t first_logits = std::max<int64_t>(first, rows - sequence.num_logits);
  if (first_logits < first + count) {
    FQ_RETURN_IF_ERROR(CopyLogits(first_logits - first, first + count - first_logits,
                                  logits + (first_logits - (rows - sequence.num_logits)) * info_.vocab_size));
  }
  FQ_RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  for (int i = 0; i < count; ++i) {
    const cuda::RowSample& result = arrays.results()[i];
    if ((result.flags & cuda::kSampleNotFinite) != 0) {
      output->status = LogitsNotFiniteError();
      output->token.reset();
      return absl::OkStatus();
    }
    if (!sequence.score_targets.empty()) {
      output->scores.push_back(result.score);
    }
    if (first + i == rows - 1 && sequence.sample.has_value()) {
      output->token = ToSampledToken(result);
    }
  }
  return absl::OkStatus();
}

absl::Status CudaModelRunner::WaitForLaunches() const {
  return peers_ == nullptr ? absl::OkStatus() : peers_->WaitOnHost();
}

absl::Status CudaModelRunner::CopyLogits(int64_t row, int64_t count, float* to) {
  return CudaStatus(
      cudaMemcpyAsync(to, forward_->logits() + row * info_.vocab_size,
                      static_cast<size_t>(count * info_.vocab_size) * sizeof(float), cudaMemcpyDeviceToHost, stream_),
      "copying logits");
}

absl::Status CudaModelRunner::UploadCounts(const SampleSpec& sample, int slot) {
  // First each token once as one of the prompt, then the answer's as often as they occurred.
  auto* staged = count_staging_.as<uint32_t>() + counts_staged_;
  size_t size = 0;
  for (const auto& [id, count] : sample.counts->entries()) {
    staged[size++] = id;
  }
  const size_t distinct = size;
  for (const auto& [id, count] : sample.counts->entries()) {
    for (uint32_t i = 0; i < count; ++i) {
      staged[size++] = id;
    }
  }
  const uint32_t* device = count_tokens_.as<uint32_t>() + counts_staged_;
  FQ_RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(count_tokens_.as<uint32_t>() + counts_staged_, staged,
                                          size * sizeof(uint32_t), cudaMemcpyHostToDevice, stream_));
  counts_staged_ += size;
  FQ_RETURN_IF_ERROR(forward_->LaunchCounts(slot, /*clear=*/true, device, static_cast<int>(distinct), false));
  return forward_->LaunchCounts(slot, /*clear=*/false, device + distinct, static_cast<int>(size - distinct), true);
}

void CudaModelRunner::CountBytes(const StepBatch& batch, const std::vector<size_t>& sequences,
                                 StepOutput* output) const {
  for (int group = 0; group < info_.num_layer_groups; ++group) {
    // A pass reads the planes once, at the largest width.
    int bits = 0;
    for (const size_t s : sequences) {
      bits = std::max<int>(bits, batch.sequences[s].plan->bits[static_cast<size_t>(group)]);
    }
    output->weight_bytes_read += static_cast<uint64_t>(weights_->layer_group(group).BytesRead(bits));
  }
  // But each row of logits has tokens of its own that are scored again.
  int64_t rescored = 0;
  for (const size_t s : sequences) {
    const SequenceInput& sequence = batch.sequences[s];
    rescored += IsRescored(sequence.plan->bits.back()) ? sequence.NumHeadRows() : 0;
  }
  output->weight_bytes_read += forward_->RescoringBytes(rescored);
}

}  // namespace flexquant::executor
