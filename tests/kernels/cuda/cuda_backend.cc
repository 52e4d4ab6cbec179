#include "tests/kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "common/precision.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/rescoring.h"
#include "kernels/cuda/rope_kv.h"
#include "kernels/cuda/sampling.h"
#include "tests/kernels/compare.h"
#include "tests/kernels/cuda/attention_calls.h"
#include "tests/kernels/cuda/device_buffer.h"
#include "tests/kernels/cuda/device_matrix.h"
#include "tests/kernels/cuda/device_test.h"
#include "tests/kernels/cuda/linear.h"

namespace flexquant::testing {
namespace {

uint32_t FineMask() {
  uint32_t mask = 0;
  for (const int bits : kPrecisions) {
    mask |= 1U << bits;
  }
  return mask;
}

// A count on the device, smaller than the rows that a launch has room for, so that none may be computed.
class RowCount {
 public:
  explicit RowCount(int64_t rows) : rows_(rows), device_(std::vector<int32_t>{static_cast<int32_t>(rows)}) {}
  const int32_t* data() const { return device_.data(); }
  int room() const { return static_cast<int>(rows_ + 1); }

 private:
  int64_t rows_;
  DeviceBuffer<int32_t> device_;
};

// Rows on the device with guards around them.
class DeviceRows {
 public:
  DeviceRows(int64_t rows, int64_t cols, int64_t padding = 3) : DeviceRows(GuardedRows(rows, cols, padding)) {}
  explicit DeviceRows(GuardedRows rows) : rows_(std::move(rows)), device_(rows_.values()) {}
  float* data() const { return device_.data(); }
  int64_t stride() const { return rows_.stride(); }
  std::vector<float> Take() {
    rows_.values() = device_.Download();
    return rows_.Take();
  }

 private:
  GuardedRows rows_;
  DeviceBuffer<float> device_;
};

cuda::RowSampling SamplingOf(const SampleRow& row, int slot) {
  cuda::RowSampling sampling;
  sampling.temperature = row.config.temperature;
  sampling.top_p = row.config.top_p;
  sampling.min_p = row.config.min_p;
  sampling.repetition_penalty = row.config.repetition_penalty;
  sampling.presence_penalty = row.config.presence_penalty;
  sampling.frequency_penalty = row.config.frequency_penalty;
  sampling.top_k = row.config.top_k;
  sampling.top_logprobs = row.top_logprobs;
  sampling.seed = row.config.seed;
  sampling.draw = row.draw;
  sampling.count_slot = slot;
  return sampling;
}

SampledToken TokenOf(const cuda::RowSample& sample) {
  SampledToken token;
  token.id = sample.token;
  token.logprob = sample.logprob;
  token.stats = {sample.max_logit,        sample.log_sum_exp, sample.entropy_nats,
                 sample.top1_probability, sample.margin,      sample.argmax};
  for (uint32_t i = 0; i < sample.num_top; ++i) {
    token.top.emplace_back(sample.top[i].id, sample.top[i].logprob);
  }
  EXPECT_EQ(sample.flags, 0U);
  return token;
}

class CudaBackend : public Backend {
 public:
  explicit CudaBackend(bool portable) : portable_(portable) {}

  std::vector<int64_t> group_sizes() const override { return {64, 128}; }
  bool SupportsHeadDim(int64_t head_dim) const override { return head_dim % 4 == 0 && head_dim <= 256; }
  // Weights are rounded to fp16, by half of 2^-10 at most; for a prefill queries, too.
  double decode_error() const override { return 5e-4; }
  double prefill_error() const override { return 1e-3; }
  double logit_error() const override { return 1e-5; }

  std::vector<float> Product(const NestedMatrix& w, const ProductInput& input) override {
    Linear linear(w, input.x, input.ldx);
    linear.params().portable = portable_;
    linear.params().fine_widths = input.fine ? FineMask() : 0;
    return linear.Run(0, {input.widths.begin(), input.widths.end()});
  }

  // By a cluster a row and by one block, which must agree.
  std::vector<float> Rescore(const NestedMatrix& w, const std::vector<float>& x, const std::vector<int>& widths,
                             const std::vector<float>& logits, int64_t limit) override {
    const DeviceMatrix matrix(w);
    const auto m = static_cast<int64_t>(widths.size());
    const RowCount rows(m);
    const DeviceBuffer<float> device_x(x);
    std::vector<uint8_t> padded(widths.begin(), widths.end());
    padded.push_back(3);
    const DeviceBuffer<uint8_t> device_widths(padded);
    std::vector<std::vector<float>> results;
    for (const bool portable : {false, true}) {
      GuardedRows start(m, w.rows);
      for (int64_t t = 0; t < m; ++t) {
        std::copy_n(logits.begin() + t * w.rows, w.rows, start.row(t));
      }
      DeviceRows scored(std::move(start));
      const DeviceBuffer<uint8_t> workspace(
          std::vector<uint8_t>(cuda::RescoringWorkspaceBytes(rows.room(), static_cast<int>(limit)), uint8_t{0xFF}));
      cuda::RescoringParams p;
      p.head = matrix.view();
      p.vocab = static_cast<int>(w.rows);
      p.limit = static_cast<int>(limit);
      p.x = device_x.data();
      p.ldx = w.cols;
      p.widths = device_widths.data();
      p.logits = scored.data();
      p.stride = scored.stride();
      p.num_rows = rows.data();
      p.max_rows = rows.room();
      p.portable = portable;
      p.workspace = workspace.data();
      CheckCuda(cuda::LaunchRescoringChoice(p, nullptr), "choice");
      CheckCuda(cuda::LaunchRescoring(p, nullptr), "rescoring");
      results.push_back(scored.Take());
    }
    EXPECT_EQ(Bits(results[0]), Bits(results[1])) << "a cluster and a block of a row differ";
    return results[0];
  }

  std::vector<float> Embedding(const NestedMatrix& w, const std::vector<uint32_t>& tokens) override {
    const DeviceMatrix matrix(w);
    const RowCount rows(static_cast<int64_t>(tokens.size()));
    std::vector<uint32_t> padded = tokens;
    padded.push_back(0);
    const DeviceBuffer<uint32_t> device_tokens(padded);
    DeviceRows out(static_cast<int64_t>(tokens.size()), w.cols, /*padding=*/0);
    cuda::EmbeddingParams p;
    p.records = matrix.view();
    p.tokens = device_tokens.data();
    p.num_rows = rows.data();
    p.max_rows = rows.room();
    p.hidden = out.data();
    CheckCuda(cuda::LaunchEmbedding(p, nullptr), "embedding");
    return out.Take();
  }

  std::vector<float> RmsNorm(const std::vector<float>& x, int64_t ldx, const std::vector<float>& weight, int64_t m,
                             float eps) override {
    const DeviceBuffer<float> device_x(x);
    const DeviceBuffer<float> device_weight(weight);
    const RowCount rows(m);
    cuda::RmsNormParams p;
    p.x = device_x.data();
    p.x_stride = ldx;
    p.weight = device_weight.data();
    p.eps = eps;
    p.cols = static_cast<int64_t>(weight.size());
    DeviceRows y(m, p.cols);
    p.out = {y.data(), nullptr, nullptr, y.stride()};
    p.num_rows = rows.data();
    p.max_rows = rows.room();
    CheckCuda(cuda::LaunchRmsNorm(p, nullptr), "norm");
    return y.Take();
  }

  std::vector<float> SiluMul(const std::vector<float>& gate_up, int64_t m, int64_t n) override {
    const DeviceBuffer<float> device_x(gate_up);
    const RowCount rows(m);
    DeviceRows y(m, n);
    cuda::SiluMulParams p;
    p.gate_up = device_x.data();
    p.stride = 2 * n;
    p.cols = n;
    p.out = {y.data(), nullptr, nullptr, y.stride()};
    p.num_rows = rows.data();
    p.max_rows = rows.room();
    CheckCuda(cuda::LaunchSiluMul(p, nullptr), "silu");
    return y.Take();
  }

  std::vector<float> Add(const std::vector<float>& x, const std::vector<float>& y, int64_t m, int64_t n) override {
    GuardedRows start(m, n);
    for (int64_t t = 0; t < m; ++t) {
      std::copy_n(x.begin() + t * n, n, start.row(t));
    }
    DeviceRows sum(std::move(start));
    const DeviceBuffer<float> device_y(y);
    const RowCount rows(m);
    cuda::AddParams p;
    p.x = sum.data();
    p.stride = sum.stride();
    p.y = device_y.data();
    p.y_stride = n;
    p.cols = n;
    p.num_rows = rows.data();
    p.max_rows = rows.room();
    CheckCuda(cuda::LaunchAdd(p, nullptr), "add");
    return sum.Take();
  }

  RopeOutput RopeAndStore(const RopeInput& input) override {
    const AttentionShape& shape = input.shape;
    const auto rows = static_cast<int64_t>(input.positions.size());
    const DeviceBuffer<float> qkv(input.qkv);
    const DeviceBuffer<float> bias(input.bias);
    const DeviceBuffer<float> q_norm(input.q_norm);
    const DeviceBuffer<float> k_norm(input.k_norm);
    std::vector<float2> angles;
    for (size_t i = 0; i < input.cos.size(); ++i) {
      angles.push_back({input.cos[i], input.sin[i]});
    }
    const DeviceBuffer<float2> table(angles);
    // A row with a negative position is left alone.
    std::vector<int32_t> positions = input.positions;
    positions.push_back(-1);
    const DeviceBuffer<int32_t> device_positions(positions);
    const DeviceBuffer<int32_t> sequences(input.sequences);
    const DeviceBuffer<uint32_t> tables(input.tables);
    const DeviceBuffer<uint16_t> k(input.k);
    const DeviceBuffer<uint16_t> v(input.v);
    cuda::RopeKvParams p;
    p.num_heads = static_cast<int>(shape.num_heads);
    p.num_kv_heads = static_cast<int>(shape.num_kv_heads);
    p.head_dim = static_cast<int>(shape.head_dim);
    p.block_tokens = static_cast<int>(shape.block_tokens);
    p.qkv = qkv.data();
    p.stride = shape.q_stride;
    p.bias = input.bias.empty() ? nullptr : bias.data();
    p.q_norm = input.q_norm.empty() ? nullptr : q_norm.data();
    p.k_norm = input.k_norm.empty() ? nullptr : k_norm.data();
    p.norm_eps = input.norm_eps;
    p.rope = table.data();
    p.positions = device_positions.data();
    p.sequence_of = sequences.data();
    p.block_tables = tables.data();
    p.block_table_stride = input.table_stride;
    p.k_cache = k.data();
    p.v_cache = v.data();
    p.max_rows = static_cast<int>(rows + 1);
    CheckCuda(cuda::LaunchRopeKv(p, nullptr), "rope");
    RopeOutput out{{}, k.Download(), v.Download()};
    const auto rotated = qkv.Download();
    const int64_t q_size = shape.num_heads * shape.head_dim;
    for (int64_t row = 0; row < rows; ++row) {
      const auto begin = rotated.begin() + row * shape.q_stride;
      out.q.insert(out.q.end(), begin, begin + q_size);
      EXPECT_TRUE(std::equal(begin + q_size, begin + shape.q_stride, input.qkv.begin() + row * shape.q_stride + q_size))
          << "keys and values of row " << row << " were changed in place";
    }
    return out;
  }

  std::vector<float> AttentionDecode(const AttentionInput& input) override {
    DecodeAttention call(input);
    CheckCuda(cuda::LaunchAttentionDecode(call.params(), nullptr), "decode attention");
    return call.Outputs();
  }

  std::vector<float> AttentionPrefill(const AttentionInput& input) override {
    PrefillAttention call(input);
    const int64_t size = input.shape.num_heads * input.shape.head_dim;
    DeviceRows out(call.rows(), size, input.shape.out_stride - size);
    call.params().out = out.data();
    CheckCuda(cuda::LaunchAttentionPrefill(call.params(), nullptr), "prefill attention");
    return out.Take();
  }

  std::vector<SampledToken> Sample(const std::vector<float>& logits, int64_t vocab,
                                   const std::vector<SampleRow>& rows) override {
    std::vector<cuda::RowSampling> settings;
    std::vector<uint32_t> counts;  // of the rows that have seen tokens
    for (const SampleRow& row : rows) {
      const bool counted = !row.counts.entries().empty();
      const auto slot = static_cast<int>(counts.size() / static_cast<size_t>(vocab));
      settings.push_back(SamplingOf(row, counted ? slot : -1));
      if (counted) {
        counts.resize(counts.size() + static_cast<size_t>(vocab), 0);
      }
      for (const auto& [id, count] : row.counts.entries()) {
        if (id < static_cast<uint32_t>(vocab)) {
          counts[static_cast<size_t>(slot * vocab) + id] = 1 + count;
        }
      }
    }
    const auto max_rows = static_cast<int>(rows.size());
    const DeviceBuffer<float> device_logits(logits);
    const DeviceBuffer<cuda::RowSampling> device_settings(settings);
    const DeviceBuffer<uint32_t> device_counts(counts);
    DeviceBuffer<cuda::RowSample> results(rows.size());
    results.Fill(0x7F);
    const DeviceBuffer<uint8_t> workspace(cuda::SamplingWorkspaceBytes(max_rows, static_cast<int>(vocab)));
    cuda::SamplingParams p;
    p.logits = device_logits.data();
    p.stride = vocab;
    p.vocab = static_cast<int>(vocab);
    p.settings = device_settings.data();
    p.token_counts = device_counts.data();
    p.results = results.data();
    p.max_rows = max_rows;
    p.workspace = workspace.data();
    CheckCuda(cuda::LaunchSampling(p, nullptr), "sampling");
    EXPECT_EQ(device_counts.Download(), counts) << "sampled tokens are counted only on request";
    std::vector<SampledToken> tokens;
    for (const cuda::RowSample& sample : results.Download()) {
      tokens.push_back(TokenOf(sample));
    }
    return tokens;
  }

 private:
  bool portable_;
};

}  // namespace

std::unique_ptr<Backend> MakeCudaBackend(bool portable) { return std::make_unique<CudaBackend>(portable); }

std::vector<BackendInfo> LinkedBackends(bool for_products) {
  std::vector<BackendInfo> backends;
  for (const bool portable : {false, true}) {
    if (portable && !for_products) {
      continue;
    }
    backends.push_back({portable ? "cuda_portable" : "cuda", [portable]() -> absl::StatusOr<std::unique_ptr<Backend>> {
                          if (const std::string missing = MissingDevice(); !missing.empty()) {
                            return absl::UnavailableError(missing);
                          }
                          return MakeCudaBackend(portable || !cuda::HopperPathSupported());
                        }});
  }
  return backends;
}

}  // namespace flexquant::testing
