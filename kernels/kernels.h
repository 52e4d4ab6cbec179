#ifndef FLEXQUANT_KERNELS_KERNELS_H_
#define FLEXQUANT_KERNELS_KERNELS_H_

// CPU kernels behind one table of function pointers a instruction set. Kernels take raw pointers and shapes, never
// allocate, log or spawn threads; callers split the work by the ranges in the arguments. All are thread-safe on
// disjoint outputs, and a result never depends on how ranges are split or on how many tokens a call carries (each
// output element is always accumulated in the same order). Every kernel has a naive counterpart in kernels/reference.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/nested_matrix.h"

namespace flexquant {

// Bytes between rows of quantised activations: whole units, and never an even number of cache lines, since a kernel
// goes through many rows a group at a time: lines of rows 2 or 8 KiB apart fight for a few places in L1.
[[gnu::always_inline]] constexpr int64_t ActivationStride(int64_t cols) {
  constexpr int64_t kLineBytes = 64;
  const int64_t padded = (cols + kUnitCols - 1) / kUnitCols * kUnitCols;
  return padded % (2 * kLineBytes) == 0 ? padded + kLineBytes : padded;
}

// Activations of m tokens as integers, symmetric, one scale a token and weight group: int8, or 15 bits as two rows of
// int8, of which the first counts 128 times.
struct QuantizedActivations {
  int64_t m = 0;
  int64_t cols = 0;
  int64_t group_size = kDefaultGroupSize;
  int64_t rows = 1;                // of int8 a token
  const int8_t* values = nullptr;  // [m, rows, ActivationStride(cols)], 0 behind cols; in [-127, 127]
  const float* scales = nullptr;   // [groups, group_stride], of tokens 0 to m - 1; 0 for an all-zero group
  const float* sums = nullptr;     // likewise, of a token's integers in a group; exact
  int64_t group_stride = 0;
};

// One sequence's part of a paged attention call. K and V of position p live in block block_table[p / block_tokens].
struct AttentionSequence {
  const float* q = nullptr;  // [num_tokens, q_stride] starting at head 0, rotated
  float* out = nullptr;      // [num_tokens, out_stride]
  int64_t num_tokens = 0;    // query tokens, positions start .. start + num_tokens - 1
  int64_t start = 0;         // position of the first query token
  const uint32_t* block_table = nullptr;
};

struct AttentionShape {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t block_tokens = 0;
  int64_t sliding_window = 0;  // 0 = none; else a query sees the last `sliding_window` positions, itself included
  int64_t q_stride = 0;        // floats between query tokens
  int64_t out_stride = 0;
  float scale = 1.0F;      // on q.k, usually 1 / sqrt(head_dim)
  int64_t num_blocks = 0;  // of the cache
};

// What a pass over the logits of one token yields.
struct LogitStats {
  float max_logit = 0;
  float log_sum_exp = 0;   // natural log of the sum of exp(logit)
  float entropy_nats = 0;  // of softmax(logits)
  float top1_probability = 0;
  float margin = 0;     // top-1 minus top-2 logit; 0 if the vocabulary has one token
  uint32_t argmax = 0;  // smallest index among equals
};

enum class Isa : uint8_t { kPortable, kAvx2, kAvxVnni, kAvx512Vnni, kNeon };

struct CpuKernels {
  Isa isa;

  // x [m, cols] (row stride ldx floats) -> values, scales, sums as in QuantizedActivations, of `rows` rows a token.
  // step = max|x| / 127 over the group, 0 if that is below 2^-100. Row 0 is x / step, rounded to nearest even; row 1,
  // if there are two, what that leaves, in 128ths of the step, values in [-64, 64]. scale = step / 128 where there are
  // two.
  void (*quantize_activations)(const float* x, int64_t ldx, int64_t m, int64_t cols, int64_t group_size, int64_t rows,
                               int8_t* values, float* scales, float* sums, int64_t group_stride);

  // y[t, n] = sum over groups of a.scale * w.scale * (dot(u, a) + (mid - zero) * a.sum) for rows n of tiles
  // [tile_begin, tile_end), groups in ascending order, fp32; rows >= w.rows are not written. y has row stride ldy
  // floats. bits in {3, 4, 5, 6, 8}. dot(u, a) is an exact int32 and equal on every instruction set, of 15-bit
  // activations, too. `workspace` has NestedGemmWorkspaceBytes(w) bytes, one a caller.
  void (*nested_gemm)(const NestedMatrix& w, int bits, const QuantizedActivations& a, int64_t tile_begin,
                      int64_t tile_end, float* y, int64_t ldy, void* workspace);

  // y[t, n] = dot(w.reference[n], x[t]) in fp32 for n in [row_begin, row_end).
  void (*reference_gemm)(const NestedMatrix& w, const float* x, int64_t ldx, int64_t m, int64_t row_begin,
                         int64_t row_end, float* y, int64_t ldy);

  // y = x / sqrt(mean(x^2) + eps) * weight, for m rows of n; may be in place.
  void (*rms_norm)(const float* x, int64_t ldx, const float* weight, int64_t m, int64_t n, float eps, float* y,
                   int64_t ldy);

  // Rotates num_heads heads of x [num_heads, head_dim] in place by the angles of one position: pairs (i, i + head_dim /
  // 2). cos, sin [head_dim / 2].
  void (*rope)(float* x, int64_t num_heads, int64_t head_dim, const float* cos, const float* sin);

  // out[i] = silu(gate[i]) * up[i].
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);

  // x[i] += y[i].
  void (*add)(float* x, const float* y, int64_t n);

  // Write one position's keys or values, src [num_kv_heads, head_dim] fp32, into its KV block in fp16. Heads are
  // `head_stride` apart; of a head, values lie next to each other, the dimensions of a key `block_tokens` apart.
  void (*store_keys)(const float* src, int64_t num_kv_heads, int64_t head_dim, uint16_t* dst, int64_t head_stride,
                     int64_t block_tokens);
  void (*store_values)(const float* src, int64_t num_kv_heads, int64_t head_dim, uint16_t* dst, int64_t head_stride);

  // Causal attention of query heads [head_begin, head_end) of one sequence over its paged cache. Of one layer, fp16:
  // k_cache [num_kv_heads, num_blocks, head_dim, block_tokens], so that a dimension of keys that follow each other is
  // one load, and those of blocks that do are one stream; v_cache [num_kv_heads, num_blocks, block_tokens, head_dim].
  // `workspace` has AttentionWorkspaceBytes(shape, max positions) bytes.
  void (*attention)(const AttentionShape& shape, const AttentionSequence& sequence, const uint16_t* k_cache,
                    const uint16_t* v_cache, int64_t head_begin, int64_t head_end, void* workspace);

  // The same with keys and values in 8 bits (kernels/kv_8.h). store_kv_8 writes one position's, k and v [num_kv_heads,
  // head_dim] fp32, into number `slot` of slabs of 16 positions; those of its heads are `head_stride` bytes apart, the
  // first at k_dst and v_dst. A key or value is rounded to max|x| / 127. head_dim at most kMaxKv8HeadDim.
  // Caches [num_kv_heads, num_blocks, block_tokens / 16, slab], block_tokens a multiple of 16. Queries and weights, of
  // 128 keys together, are rounded to 14 bits; sums of products are exact int32.
  void (*store_kv_8)(const float* k, const float* v, int64_t num_kv_heads, int64_t head_dim, uint8_t* k_dst,
                     uint8_t* v_dst, int64_t head_stride, int64_t slot);
  void (*attention_8)(const AttentionShape& shape, const AttentionSequence& sequence, const uint8_t* k_cache,
                      const uint8_t* v_cache, int64_t head_begin, int64_t head_end, void* workspace);
  // The same for a sequence of one query token, part by part (kAttentionPartKeys), so that threads share a context.
  // attention_8_part computes a part of which the query sees a position; head h's result is a record of
  // AttentionRecordBytes(head_dim) / 4 floats at records + h * stride. merge_attention_8 makes a head's output
  // [head_dim] of the records of all parts that its query sees, one behind the other, in order; it changes them.
  // Results are attention_8's, bit for bit.
  void (*attention_8_part)(const AttentionShape& shape, const AttentionSequence& sequence, const uint8_t* k_cache,
                           const uint8_t* v_cache, int64_t head_begin, int64_t head_end, int64_t part, float* records,
                           int64_t stride, void* workspace);
  void (*merge_attention_8)(float* records, int64_t parts, int64_t head_dim, float* out);

  // One pass over logits [n], n >= 1, finite.
  LogitStats (*logit_stats)(const float* logits, int64_t n);

  // KL(softmax(p) || softmax(q)) in nats, >= 0, of two rows of logits [n], n >= 1, finite; log_sum_exp as logit_stats
  // gives it. An error of log_sum_exp counts only squared, so that distributions that hardly differ are measured to
  // about 1e-6.
  double (*kl_divergence)(const float* p, float p_log_sum_exp, const float* q, float q_log_sum_exp, int64_t n);

  // Tokens of logits [n], n >= 1, that rescoring scores again (common/rescoring.h), at most `limit`, into tokens
  // [limit], in no order; returns how many. `workspace` has LikeliestWorkspaceBytes(n, limit) bytes, aligned to 4.
  // Logits that are not finite are never among them.
  int64_t (*likeliest)(const float* logits, int64_t n, int64_t limit, uint32_t* tokens, void* workspace);

  // Sum over k of scale * (code - zero) * x[k], fp32, for a row of 8-bit codes padded to whole units of 32 columns;
  // scales [groups][2]: scale and zero.
  float (*dot_codes)(const uint8_t* codes, const float* scales, const float* x, int64_t cols, int64_t group_size);
};

// Tokens a slab of 8-bit keys, or values, of one KV head has, and its bytes.
inline constexpr int64_t kKv8SlabTokens = 16;
inline constexpr int64_t kMaxKv8HeadDim = 256;
size_t Kv8SlabBytes(int64_t head_dim);
// Attention over them goes through a context in parts of so many positions; part p begins at p times this.
inline constexpr int64_t kAttentionPartKeys = 256;
size_t AttentionRecordBytes(int64_t head_dim);

size_t NestedGemmWorkspaceBytes(const NestedMatrix& w);
size_t LikeliestWorkspaceBytes(int64_t n, int64_t limit);
size_t AttentionWorkspaceBytes(const AttentionShape& shape, int64_t max_positions);

// Best instruction set of this machine.
Isa BestIsa();
bool IsaSupported(Isa isa);
absl::string_view IsaName(Isa isa);  // "portable", "avx2", "avxvnni", "avx512vnni" or "neon" (with dot products)
std::optional<Isa> ParseIsa(absl::string_view name);
// All sets compiled in, portable first.
std::vector<Isa> AllIsas();
// Table for `isa`, which must be supported.
const CpuKernels& GetCpuKernels(Isa isa);

}  // namespace flexquant

#endif  // FLEXQUANT_KERNELS_KERNELS_H_
