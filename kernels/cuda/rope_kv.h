#ifndef FLEXQUANT_KERNELS_CUDA_ROPE_KV_H_
#define FLEXQUANT_KERNELS_CUDA_ROPE_KV_H_

// Between the qkv product and attention: bias, per-head RMS norm of q and k, rotation, and the new keys and values to
// the paged cache.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace flexquant::cuda {

// Fills table [positions, pairs] with (cos, sin) of position * frequencies[pair], the angle taken in double as
// executor/rope.h does. frequencies [pairs] is device memory. pairs * positions * 8 bytes.
cudaError_t LaunchRopeTable(const double* frequencies, int pairs, int positions, float2* table, cudaStream_t stream);

// All pointers are device memory.
struct RopeKvParams {
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;  // even, at most 256
  int block_tokens = 0;
  float* qkv = nullptr;  // [max_rows, stride]: q heads, k heads, v heads; q is rotated in place, k and v are left
  int64_t stride = 0;    // floats
  const float* bias = nullptr;    // [q + 2 kv] added first, or null
  const float* q_norm = nullptr;  // [head_dim] weight of the per-head RMS norm, or null
  const float* k_norm = nullptr;
  float norm_eps = 0;
  const float2* rope = nullptr;            // [>= every position + 1, head_dim / 2] from LaunchRopeTable
  const int32_t* positions = nullptr;      // [max_rows]; a row with a negative one is left alone
  const int32_t* sequence_of = nullptr;    // [max_rows] row of block_tables, or null: row r is sequence r
  const uint32_t* block_tables = nullptr;  // [sequences, block_table_stride]
  int64_t block_table_stride = 0;
  uint16_t* k_cache = nullptr;  // [blocks, num_kv_heads, block_tokens, head_dim] fp16
  uint16_t* v_cache = nullptr;
  const int32_t* num_rows = nullptr;  // [1], or null for max_rows
  int max_rows = 0;
};

// With `programmatic`, rope, positions, sequence_of, block_tables and num_rows are read while the kernel before still
// runs: nothing of the same chain of programmatic launches may write them.
cudaError_t LaunchRopeKv(const RopeKvParams& params, cudaStream_t stream, bool programmatic = false);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_ROPE_KV_H_
