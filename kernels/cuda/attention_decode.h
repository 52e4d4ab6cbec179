#ifndef FLEXQUANT_KERNELS_CUDA_ATTENTION_DECODE_H_
#define FLEXQUANT_KERNELS_CUDA_ATTENTION_DECODE_H_

// Attention of one query token per sequence over the paged fp16 cache (flash decoding). The context is cut into parts
// whose number depends on the sequence's own length alone, and partial results are added in one fixed order, so a
// sequence's result does not depend on the others of the batch. The last block of a sequence and head to finish
// combines the parts, so it is one launch.
//
// Fast for head_dim 64, 80, 96, 128 and 256 with block_tokens a power of two from 16 on; other shapes take a plain
// slower kernel (head_dim a multiple of 4 up to 256).

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace flexquant::cuda {

inline constexpr int kAttentionDecodeMaxRows = 64;

// What turns a row of the qkv product into queries and the newest key and value, as kernels/cuda/rope_kv.h does.
struct AttentionRope {
  const float2* table = nullptr;  // [>= every position + 1, head_dim / 2] from LaunchRopeTable
  const float* q_norm = nullptr;  // [head_dim] weight of the per-head RMS norm, or null
  const float* k_norm = nullptr;
  float norm_eps = 0;
};

// All pointers are device memory.
struct AttentionDecodeParams {
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int block_tokens = 0;
  int sliding_window = 0;    // 0 = none; else a query sees the last `sliding_window` positions, itself included
  float scale = 1.0F;        // on q.k
  const float* q = nullptr;  // [max_rows, q_stride] starting at head 0; 16-byte aligned rows
  int64_t q_stride = 0;      // floats, a multiple of 4
  float* out = nullptr;      // [max_rows, out_stride], num_heads * head_dim floats of each row are written
  int64_t out_stride = 0;    // floats, a multiple of 4
  // With a table: q is followed by the k and v heads, none rotated, and this kernel rotates and stores the newest key
  // and value. Without: q is rotated and they are stored already. Only where AttentionDecodeRotates.
  AttentionRope rope;
  uint16_t* k_cache = nullptr;             // [blocks, num_kv_heads, block_tokens, head_dim] fp16
  uint16_t* v_cache = nullptr;             // likewise
  const uint32_t* block_tables = nullptr;  // [max_rows, block_table_stride]
  int64_t block_table_stride = 0;
  const int32_t* positions = nullptr;  // [max_rows] of the query tokens; a row with a negative one is left alone
  const int32_t* num_rows = nullptr;   // [1], or null for max_rows
  int max_rows = 0;                    // at most kAttentionDecodeMaxRows
  // True if nothing of the same chain of programmatic launches writes num_rows, positions, block_tables or the cache
  // before the newest position: they, and the first keys and values, are then read while the kernel before still runs.
  // `rope.table` always is.
  bool context_ready = false;
  int max_splits = 0;  // 0 = AttentionDecodeMaxSplits(num_kv_heads); changes results' rounding
  // AttentionDecodeWorkspaceBytes; zeroed once when allocated, then only used by this. One of the largest max_rows
  // serves launches of fewer rows, too.
  void* workspace = nullptr;
};

// Whether this shape takes a rope table.
bool AttentionDecodeRotates(const AttentionDecodeParams& params);

// Parts a context is cut into at most.
int AttentionDecodeMaxSplits(int num_kv_heads);
size_t AttentionDecodeWorkspaceBytes(const AttentionDecodeParams& params);

// Shared memory of an SM that a block takes, the system's included; 0 for other shapes than the fast ones. What a
// kernel in front leaves of it decides whether keys and values are fetched while that one still runs.
size_t AttentionDecodeSharedBytes(const AttentionDecodeParams& params);

cudaError_t LaunchAttentionDecode(const AttentionDecodeParams& params, cudaStream_t stream, bool programmatic = false);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_ATTENTION_DECODE_H_
