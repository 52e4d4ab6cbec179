#ifndef FLEXQUANT_KERNELS_REFERENCE_REFERENCE_H_
#define FLEXQUANT_KERNELS_REFERENCE_REFERENCE_H_

// Naive oracles of the kernels in kernels/kernels.h: loops over one element at a time, fp64 sums, planes decoded bit by
// bit from the words of common/nested_matrix.h. For tests and benchmarks only.

#include <cstdint>
#include <vector>

#include "common/nested_matrix.h"
#include "kernels/kernels.h"

namespace flexquant::reference {

double HalfToDouble(uint16_t half);
// Round to nearest even; |value| < 65520.
uint16_t DoubleToHalf(double value);

// Code of (row, col) at `bits`: its leading bits, the rest 0. In [0, 255].
int Code(const NestedMatrix& w, int bits, int64_t row, int64_t col);

// Exact sum over the columns of group `group` of code * value; `values` points to the token's first value.
int64_t IntegerDot(const NestedMatrix& w, int bits, int64_t row, int64_t group, const int8_t* values);

// Weight (row, col) at `bits`.
double Weight(const NestedMatrix& w, int bits, int64_t row, int64_t col);

struct Activations {
  std::vector<int8_t> values;
  std::vector<float> scales;  // [groups, m]
  std::vector<float> sums;
  QuantizedActivations view;  // of the vectors
};
// As CpuKernels::quantize_activations.
Activations QuantizeActivations(const float* x, int64_t ldx, int64_t m, int64_t cols, int64_t group_size, int64_t rows);

// y [m, rows]. If `magnitude` is not null it gets [m, rows], the sum of the absolute values of what enters each output:
// the scale of its rounding error.
std::vector<double> NestedGemm(const NestedMatrix& w, int bits, const QuantizedActivations& a,
                               std::vector<double>* magnitude = nullptr);

// y [m, rows] and magnitudes, of w.reference.
std::vector<double> ReferenceGemm(const NestedMatrix& w, const float* x, int64_t ldx, int64_t m,
                                  std::vector<double>* magnitude = nullptr);

std::vector<double> RmsNorm(const float* x, const float* weight, int64_t n, double eps);
std::vector<double> Rope(const float* x, int64_t num_heads, int64_t head_dim, const float* cos, const float* sin);
std::vector<double> SiluMul(const float* gate, const float* up, int64_t n);

// [num_tokens, num_heads, head_dim]; caches [blocks, num_kv_heads, block_tokens, head_dim].
std::vector<double> Attention(const AttentionShape& shape, const AttentionSequence& sequence, const uint16_t* k_cache,
                              const uint16_t* v_cache);

// The same over 8-bit keys and values (kernels/kv_8.h): caches [num_kv_heads, num_blocks, block_tokens / 16, slab].
std::vector<double> Attention8(const AttentionShape& shape, const AttentionSequence& sequence, const uint8_t* k_cache,
                               const uint8_t* v_cache);

// Tokens that rescoring scores again, ascending (common/rescoring.h).
std::vector<int64_t> Likeliest(const float* logits, int64_t n, int64_t limit);

struct Stats {
  double max_logit = 0;
  double log_sum_exp = 0;
  double entropy_nats = 0;
  double top1_probability = 0;
  double margin = 0;
  uint32_t argmax = 0;
};
Stats LogitStats(const float* logits, int64_t n);

double KlDivergence(const float* p, const float* q, int64_t n);

}  // namespace flexquant::reference

#endif  // FLEXQUANT_KERNELS_REFERENCE_REFERENCE_H_
