#ifndef FLEXQUANT_TESTS_KERNELS_BACKEND_H_
#define FLEXQUANT_TESTS_KERNELS_BACKEND_H_

// Where kernels run, so that the tests of tests/kernels/ops have one body for all: each instruction set of the CPU, a
// GPU's own kernels, its portable ones. Inputs and outputs are host memory. Backends surround outputs with memory that
// kernels must leave alone and check that (GuardedRows).

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/nested_matrix.h"
#include "kernels/kernels.h"
#include "kernels/sampling.h"
#include "tests/kernels/paged_cache.h"

namespace flexquant::testing {

inline constexpr float kUntouched = -12345.0F;

// `rows` rows of `cols` outputs, `padding` elements after each and `behind` rows after them, all kUntouched.
class GuardedRows {
 public:
  GuardedRows(int64_t rows, int64_t cols, int64_t padding = 3, int64_t behind = 1)
      : rows_(rows),
        cols_(cols),
        stride_(cols + padding),
        values_(static_cast<size_t>((rows + behind) * stride_), kUntouched) {}

  int64_t stride() const { return stride_; }
  float* row(int64_t row) { return values_.data() + row * stride_; }
  // All of it, [rows + behind, stride].
  std::vector<float>& values() { return values_; }
  // The outputs [rows, cols], after a check of what surrounds them.
  std::vector<float> Take() const;

 private:
  int64_t rows_;
  int64_t cols_;
  int64_t stride_;
  std::vector<float> values_;
};

// Rows of activations [rows, ldx], row t read at widths[t] bits of the weights.
struct ProductInput {
  std::vector<float> x;
  int64_t ldx = 0;
  std::vector<int> widths;  // {3, 4, 5, 6, 8}
  bool fine = false;        // 15-bit activations, else 8
};

// Tokens of one layer on their way from the qkv product to attention.
struct RopeInput {
  AttentionShape shape;       // q_stride: of a whole row of qkv
  std::vector<float> qkv;     // [rows, q_stride]: q, k and v heads
  std::vector<float> bias;    // [q_stride] or empty
  std::vector<float> q_norm;  // [head_dim] or empty
  std::vector<float> k_norm;  // [head_dim] or empty
  float norm_eps = 1e-6F;
  std::vector<float> cos;          // [positions, head_dim / 2]
  std::vector<float> sin;          // likewise
  std::vector<int32_t> positions;  // [rows]
  std::vector<int32_t> sequences;  // [rows] row of `tables`
  std::vector<uint32_t> tables;    // [sequences, table_stride] of KV blocks
  int64_t table_stride = 0;
  std::vector<uint16_t> k;  // the cache before, [blocks, num_kv_heads, block_tokens, head_dim]
  std::vector<uint16_t> v;  // likewise
};

struct RopeOutput {
  std::vector<float> q;     // [rows, num_heads * head_dim]
  std::vector<uint16_t> k;  // the cache after
  std::vector<uint16_t> v;
};

// Queries of some sequences, one sequence's rows after the other's.
struct AttentionInput {
  AttentionShape shape;
  const PagedCache* cache = nullptr;
  std::vector<float> q;         // [rows, shape.q_stride], rotated
  std::vector<int64_t> starts;  // of each sequence of the cache: position of its first row
  std::vector<int64_t> counts;  // and its number of rows
};

struct SampleRow {
  SamplingConfig config;
  TokenCounts counts;
  uint64_t draw = 0;
  uint32_t top_logprobs = 0;  // at most 20
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::vector<int64_t> group_sizes() const = 0;
  virtual bool SupportsHeadDim(int64_t head_dim) const = 0;
  // Allowed relative L2 errors of attention: what rounding of queries and weights makes, where it is not fp32's.
  virtual double decode_error() const = 0;
  virtual double prefill_error() const = 0;
  // Allowed relative error of log-sum-exp, entropy and probabilities.
  virtual double logit_error() const = 0;

  // y = W x of up to 64 rows, [rows, w.rows].
  virtual std::vector<float> Product(const NestedMatrix& w, const ProductInput& input) = 0;
  // Logits [rows, w.rows] of x [rows, w.cols] after rescoring up to `limit` of each row whose head has widths[row] bits
  // (common/rescoring.h); of a head of 8 bits as they were.
  virtual std::vector<float> Rescore(const NestedMatrix& w, const std::vector<float>& x, const std::vector<int>& widths,
                                     const std::vector<float>& logits, int64_t limit) = 0;
  // Rows of w at 8 bits, [tokens, w.cols].
  virtual std::vector<float> Embedding(const NestedMatrix& w, const std::vector<uint32_t>& tokens) = 0;
  // m rows of x, `ldx` apart: [m, weight.size()].
  virtual std::vector<float> RmsNorm(const std::vector<float>& x, int64_t ldx, const std::vector<float>& weight,
                                     int64_t m, float eps) = 0;
  // m rows of n gates and n ups: [m, n].
  virtual std::vector<float> SiluMul(const std::vector<float>& gate_up, int64_t m, int64_t n) = 0;
  // x + y, both [m, n].
  virtual std::vector<float> Add(const std::vector<float>& x, const std::vector<float>& y, int64_t m, int64_t n) = 0;
  virtual RopeOutput RopeAndStore(const RopeInput& input) = 0;
  // [rows, num_heads * head_dim], by the kernel for one row a sequence.
  virtual std::vector<float> AttentionDecode(const AttentionInput& input) = 0;
  // The same by the kernel for chunks.
  virtual std::vector<float> AttentionPrefill(const AttentionInput& input) = 0;
  // Of logits [rows, vocab].
  virtual std::vector<SampledToken> Sample(const std::vector<float>& logits, int64_t vocab,
                                           const std::vector<SampleRow>& rows) = 0;
};

struct BackendInfo {
  std::string name;  // letters, digits and underscores
  // UNAVAILABLE, saying why, if this machine lacks it.
  std::function<absl::StatusOr<std::unique_ptr<Backend>>()> open;
};

inline void PrintTo(const BackendInfo& info, std::ostream* out) { *out << info.name; }

// The backends that are linked into this program. Some differ in products only.
std::vector<BackendInfo> LinkedBackends(bool for_products);

// A fixture run once for every backend; what this machine lacks is skipped.
class BackendTest : public ::testing::TestWithParam<BackendInfo> {
 protected:
  void SetUp() override {
    auto backend = GetParam().open();
    if (!backend.ok()) {
      GTEST_SKIP() << GetParam().name << ": " << backend.status().message();
    }
    backend_ = *std::move(backend);
  }
  Backend& backend() { return *backend_; }

 private:
  std::unique_ptr<Backend> backend_;
};

inline std::string BackendTestName(const ::testing::TestParamInfo<BackendInfo>& info) { return info.param.name; }

#define FLEXQUANT_INSTANTIATE_BACKEND_TEST(Fixture, for_products)                                                \
  INSTANTIATE_TEST_SUITE_P(On, Fixture, ::testing::ValuesIn(::flexquant::testing::LinkedBackends(for_products)), \
                           ::flexquant::testing::BackendTestName)

}  // namespace flexquant::testing

#endif  // FLEXQUANT_TESTS_KERNELS_BACKEND_H_
