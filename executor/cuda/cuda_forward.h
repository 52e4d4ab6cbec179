#ifndef FLEXQUANT_EXECUTOR_CUDA_CUDA_FORWARD_H_
#define FLEXQUANT_EXECUTOR_CUDA_CUDA_FORWARD_H_

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/model_config.h"
#include "common/precision.h"
#include "executor/cuda/device_memory.h"
#include "executor/cuda/device_weights.h"
#include "executor/cuda/launch_observer.h"
#include "executor/cuda/peer_ranks.h"
#include "kernels/cuda/nested_gemv.h"
#include "kernels/cuda/sampling.h"

namespace flexquant::executor {

struct CudaForwardShape {
  uint32_t kv_blocks = 0;
  uint32_t kv_block_tokens = 16;
  int64_t max_context = 0;        // tokens a sequence may have
  int64_t max_rows = 0;           // tokens of a prefill chunk
  bool portable = false;          // kernels for sm_80 and up instead of Hopper's
  bool keep_low_columns = false;  // cuda::GemvTuning
  bool rescore = true;            // heads below 8 bits: common/rescoring.h
  // Manifest::fine_activations_from.
  int fine_activations_from = kDefaultFineActivationsFrom;
};

// What makes a pass one rank's of a group: `config` and `weights` are the rank's share then.
struct ForwardRank {
  PeerRanks* peers = nullptr;  // null: alone
  int rank = 0;
  int64_t vocab_size = 0;   // of the whole model
  int64_t vocab_begin = 0;  // of the rank's share of it
};

// Device arrays that say what a pass computes, so that a captured graph serves every pass. Row = token.
struct PassInputs {
  const uint32_t* tokens = nullptr;        // [rows]
  const int32_t* positions = nullptr;      // [rows]
  const int32_t* num_rows = nullptr;       // [1]
  const uint8_t* widths = nullptr;         // [layer groups][kMaxGemvRows]
  const uint32_t* block_tables = nullptr;  // [sequences][block_table_stride]
  int64_t block_table_stride = 0;
  const cuda::RowSampling* sampling = nullptr;  // [rows that have logits]
  // Prefill of one sequence.
  const int32_t* row_starts = nullptr;       // [2]: 0, rows
  const int32_t* start_position = nullptr;   // [1]
  const int32_t* sequence_of_row = nullptr;  // [rows], zeros
};

// The model on the device: KV cache, activations and the launches of a pass in stream order. Launches only: nothing
// here waits for the device or allocates after Create. Not thread-safe.
class CudaForward {
 public:
  // Above it the fused product is faster than the decode kernels, whose time grows with every 16 rows.
  static constexpr int kMaxSmallRows = 16;

  // Device bytes beside the weights and the KV cache.
  static uint64_t WorkspaceBytes(const ModelConfig& config, const CudaForwardShape& shape,
                                 const ForwardRank& rank = {});
  // The place of a LaunchObserver for all that ranks do together.
  static constexpr char kRanksPlace[] = "sums over ranks";
  // `weights` must outlive it, as must the peers of `rank`. Ranks create theirs and make every launch together.
  static absl::StatusOr<std::unique_ptr<CudaForward>> Create(const ModelConfig& config, const DeviceWeights& weights,
                                                             const CudaForwardShape& shape, cudaStream_t stream,
                                                             const ForwardRank& rank = {});
  ~CudaForward();
  CudaForward(const CudaForward&) = delete;
  CudaForward& operator=(const CudaForward&) = delete;

  // One token of each of up to `bucket` (at most kMaxGemvRows) sequences, up to and including sampling into `results`
  // [bucket]. Reads only device arrays: may be captured. Every launch goes through `observer` if there is one.
  absl::Status LaunchDecode(const PassInputs& inputs, int bucket, cuda::RowSample* results,
                            LaunchObserver* observer = nullptr);

  // A chunk of `rows` (at most max_rows) tokens of one sequence, without the head. `bits` [layer groups] is the plan on
  // the host. Up to kMaxSmallRows rows take the decode kernels, more the fused product with fp16 activations. Where
  // that does not run, up to kMaxGemvRows take the decode kernels and more take cuBLAS on dequantised tiles.
  absl::Status LaunchPrefill(const PassInputs& inputs, int rows, absl::Span<const uint8_t> bits);
  // Head and sampling for rows [first, first + count) of the last LaunchPrefill; count at most kMaxGemvRows. widths and
  // num_rows of `inputs` are those of these rows.
  absl::Status LaunchHead(const PassInputs& inputs, int64_t first, int count, cuda::RowSample* results);

  // Adds a sequence's tokens to the counts that penalties read, in `slot` < kMaxGemvRows.
  absl::Status LaunchCounts(int slot, bool clear, const uint32_t* tokens, int num_tokens, bool answer);

  // Bytes of the head that rescoring `tokens` rows of logits reads, at most; of a rank: its share.
  uint64_t RescoringBytes(int64_t tokens) const;

  // [kMaxGemvRows, vocab] of the last LaunchDecode or LaunchHead.
  const float* logits() const { return logits_.as<float>(); }

 private:
  CudaForward(const ModelConfig& config, const DeviceWeights& weights, const CudaForwardShape& shape,
              cudaStream_t stream, const ForwardRank& rank);
  absl::Status Allocate();

  enum class Attention : uint8_t { kDecode, kPrefill };
  // Where the prefill attention's results go: attended_, or half_ in rows or in blocks.
  enum class AttentionOutput : uint8_t { kFloats, kHalves, kBlocks };
  uint16_t* Keys(int64_t layer) const;
  uint16_t* Values(int64_t layer) const;
  absl::Status LaunchEmbedding(const PassInputs& inputs, int rows);
  // Makes hidden_ the sum over the ranks.
  absl::Status LaunchSum(const PassInputs& inputs, int rows);
  // Waits for all ranks.
  absl::Status LaunchBarrier();
  absl::Status LaunchOfRanks(absl::FunctionRef<absl::Status()> launch);
  // Of the whole model.
  int64_t Vocab() const { return rank_.peers == nullptr ? config_.vocab_size : rank_.vocab_size; }
  bool FirstRank() const { return rank_.rank == 0; }
  // Of o and down: rank 0 adds to the hidden state, the others put their part of the sum in its place.
  cuda::GemvEpilogue ResidualEpilogue() const {
    return FirstRank() ? cuda::GemvEpilogue::kAdd : cuda::GemvEpilogue::kStore;
  }
  // Blocks with the decode kernels, for up to kMaxGemvRows rows.
  absl::Status LaunchSmallBlock(const PassInputs& inputs, int64_t layer, int rows, Attention attention);
  absl::Status LaunchFusedBlock(const PassInputs& inputs, int64_t layer, int rows, absl::Span<const uint8_t> bits);
  absl::Status LaunchLargeBlock(const PassInputs& inputs, int64_t layer, int rows, absl::Span<const uint8_t> bits);
  absl::Status LaunchRopeKv(const PassInputs& inputs, int64_t layer, int rows, const float* bias, bool one_sequence);
  absl::Status LaunchHeadRows(const PassInputs& inputs, const float* hidden, int rows, cuda::RowSample* results);
  // Behind the head's product of `hidden`.
  absl::Status LaunchRescoring(const PassInputs& inputs, const float* hidden, int rows);
  // Rotates and stores the new keys and values, too.
  absl::Status LaunchAttentionDecode(const PassInputs& inputs, int64_t layer, int rows);
  absl::Status LaunchAttentionPrefill(const PassInputs& inputs, int64_t layer, int rows, AttentionOutput output);
  absl::Status Gemm(const cuda::DeviceNestedMatrix& w, int bits, const uint16_t* x, int rows, float* y,
                    bool accumulate);
  cuda::GemvParams Gemv(const PassInputs& inputs, const cuda::DeviceNestedMatrix& w, int group, int rows) const;
  absl::Status LaunchGemv(const char* name, const cuda::GemvParams& params);
  absl::Status Launch(const char* name, absl::FunctionRef<cudaError_t()> launch);
  bool DependentLaunch() const;

  const ModelConfig& config_;
  const DeviceWeights& weights_;
  const CudaForwardShape shape_;
  const cudaStream_t stream_;
  const ForwardRank rank_;
  const bool fused_;                    // large prefill chunks take the fused product
  LaunchObserver* observer_ = nullptr;  // of the LaunchDecode in progress
  cublasHandle_t cublas_ = nullptr;

  DeviceBuffer kv_;
  DeviceBuffer rope_;       // float2 [max_context, head_dim / 2]
  DeviceBuffer hidden_;     // [max_rows, hidden]
  DeviceBuffer qkv_;        // [max_rows, q + 2 kv]
  DeviceBuffer inner_;      // [max_rows, 2 * intermediate]; decode: [kMaxGemvRows, intermediate]
  DeviceBuffer attended_;   // [kMaxGemvRows, q]
  DeviceBuffer half_;       // fp16 [max_rows, widest input], or in blocks
  DeviceBuffer row_scale_;  // [max_rows]
  DeviceBuffer logits_;     // [kMaxGemvRows, vocab] of the whole model; only in rank 0, as the next
  DeviceBuffer counts_;     // [kMaxGemvRows, vocab]
  DeviceBuffer gemv_workspace_;
  DeviceBuffer attention_workspace_;
  DeviceBuffer sampling_workspace_;
  DeviceBuffer rescoring_workspace_;  // every rank's own
  DeviceBuffer gemm_workspace_;       // dequantised tiles
  DeviceBuffer cublas_workspace_;
  float* rank_logits_ = nullptr;  // logits_ of rank 0, which samples: every rank writes its columns
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_CUDA_CUDA_FORWARD_H_
