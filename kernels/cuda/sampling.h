#ifndef FLEXQUANT_KERNELS_CUDA_SAMPLING_H_
#define FLEXQUANT_KERNELS_CUDA_SAMPLING_H_

// Sampling and signals on the device, with the semantics of kernels/sampling.h and LogitStats of kernels/kernels.h: the
// same logits, settings and draw give the CPU's token unless a boundary (of the nucleus, of the draw) is closer than
// double rounding tells apart. Independent of the batch. One launch; a cluster of blocks holds a row's logits in shared
// memory, so device memory is read once.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace flexquant::cuda {

inline constexpr int kMaxTopLogprobs = 20;

// One row's settings; ranges as in SamplingConfig.
struct RowSampling {
  float temperature = 0;  // 0 = greedy
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint32_t top_k = 0;
  uint32_t top_logprobs = 0;  // at most kMaxTopLogprobs
  uint64_t seed = 0;
  uint64_t draw = 0;
  int32_t count_slot = -1;     // row of token_counts, -1 = none: no penalties
  int32_t score_target = -1;   // token whose log-probability is wanted, -1 = none
  uint32_t sample = 1;         // 0: statistics, top list and score only; the token is the argmax
  uint32_t count_sampled = 0;  // 1: add the sampled token to token_counts as one of the answer
};

struct TopToken {
  uint32_t id;
  float logprob;
};

// Logits of the row were not finite: nothing else of the result holds, the token is 0.
inline constexpr uint32_t kSampleNotFinite = 1;

struct RowSample {
  uint32_t token;
  uint32_t flags;
  float logprob;  // of token under the unmodified distribution, as everything below
  float score;    // log-probability of score_target, 0 without one
  float max_logit;
  float log_sum_exp;
  float entropy_nats;
  float top1_probability;
  float margin;
  uint32_t argmax;
  uint32_t num_top;
  uint32_t reserved;
  TopToken top[kMaxTopLogprobs];  // most likely first, ties by smaller id
};

// Device memory, but results may also be pinned host memory.
struct SamplingParams {
  const float* logits = nullptr;          // [max_rows, stride]; not modified
  int64_t stride = 0;                     // floats
  int vocab = 0;                          // at most 2^18
  const RowSampling* settings = nullptr;  // [max_rows]
  // [slots, vocab] of sequences with penalties: 0 = not seen, 1 = in the prompt only, 1 + n = n times in the answer.
  // null = no penalties.
  uint32_t* token_counts = nullptr;
  RowSample* results = nullptr;       // [max_rows]
  uint32_t* next_tokens = nullptr;    // [max_rows] the tokens again, for the next step's embedding; may be null
  const int32_t* num_rows = nullptr;  // [1], or null for max_rows
  int max_rows = 0;
  void* workspace = nullptr;  // SamplingWorkspaceBytes
};

// 0 where clusters keep the logits in shared memory (compute capability 9.0 and later).
size_t SamplingWorkspaceBytes(int max_rows, int vocab);

cudaError_t LaunchSampling(const SamplingParams& params, cudaStream_t stream, bool programmatic = false);

// Clears a sequence's counts if `clear`, then adds `num_tokens` tokens (device memory) of its prompt or answer.
struct CountTokensParams {
  uint32_t* counts = nullptr;  // [vocab] of one slot
  int vocab = 0;
  bool clear = false;
  const uint32_t* tokens = nullptr;
  int num_tokens = 0;
  bool answer = false;
};
cudaError_t LaunchCountTokens(const CountTokensParams& params, cudaStream_t stream);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_SAMPLING_H_
