#ifndef FLEXQUANT_KERNELS_CUDA_ATTENTION_PREFILL_H_
#define FLEXQUANT_KERNELS_CUDA_ATTENTION_PREFILL_H_

// Causal attention of chunks of query tokens of one or several sequences over the paged fp16 cache, which holds the
// chunks' own keys and values already. Flash attention on fp16 tensor cores, fp32 sums. A query's result depends on its
// place in the chunk only by rounding.
//
// Fast for head_dim 64, 80, 96, 128 and 256 and block_tokens a power of two; other multiples of 4 up to 256 take a
// plain slower kernel.

#include <cuda_runtime.h>

#include <cstdint>

namespace flexquant::cuda {

// All pointers are device memory.
struct AttentionPrefillParams {
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int block_tokens = 0;
  int sliding_window = 0;  // as in AttentionDecodeParams
  float scale = 1.0F;
  const float* q = nullptr;           // [max_rows, q_stride] starting at head 0, rotated; 16-byte aligned rows
  int64_t q_stride = 0;               // floats, a multiple of 4
  float* out = nullptr;               // [max_rows, out_stride]; null if out_half is given
  uint16_t* out_half = nullptr;       // the same in fp16; a mean of fp16 values cannot overflow
  int64_t out_stride = 0;             // elements, a multiple of 4
  int64_t out_block_rows = 0;         // above 0: out_half is in blocks of so many rows (activation_blocks.h), no stride
  const uint16_t* k_cache = nullptr;  // [blocks, num_kv_heads, block_tokens, head_dim] fp16
  const uint16_t* v_cache = nullptr;
  const uint32_t* block_tables = nullptr;  // [max_sequences, block_table_stride]
  int64_t block_table_stride = 0;
  const int32_t* row_starts = nullptr;       // [max_sequences + 1] first row of each sequence, then the number of rows
  const int32_t* start_positions = nullptr;  // [max_sequences] position of each sequence's first row
  const int32_t* num_sequences = nullptr;    // [1], or null for max_sequences
  int max_rows = 0;
  int max_sequences = 0;
};

cudaError_t LaunchAttentionPrefill(const AttentionPrefillParams& params, cudaStream_t stream,
                                   bool programmatic = false);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_ATTENTION_PREFILL_H_
