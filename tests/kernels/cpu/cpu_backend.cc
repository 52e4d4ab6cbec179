#include <algorithm>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "common/precision.h"
#include "common/rescoring.h"
#include "common/store/nested_quantizer.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/cpu/quantized_tokens.h"

namespace flexquant::testing {
namespace {

// Kernels of one instruction set, put together as the executor does.
class CpuBackend : public Backend {
 public:
  explicit CpuBackend(const CpuKernels& kernels) : kernels_(kernels) {}

  std::vector<int64_t> group_sizes() const override { return {32, 64, 128}; }
  bool SupportsHeadDim(int64_t) const override { return true; }
  double decode_error() const override { return 3e-6; }
  double prefill_error() const override { return 3e-6; }
  double logit_error() const override { return 3e-6; }

  std::vector<float> Product(const NestedMatrix& w, const ProductInput& input) override {
    const auto m = static_cast<int64_t>(input.widths.size());
    GuardedRows y(m, w.rows);
    // Rows of one width next to each other are one product.
    for (int64_t begin = 0; begin < m;) {
      const int bits = input.widths[static_cast<size_t>(begin)];
      int64_t end = begin + 1;
      while (end < m && input.widths[static_cast<size_t>(end)] == bits) {
        ++end;
      }
      const QuantizedTokens a(kernels_, input.x.data() + begin * input.ldx, input.ldx, end - begin, w.cols,
                              w.group_size, input.fine ? 2 : 1);
      std::vector<uint8_t> workspace(NestedGemmWorkspaceBytes(w));
      kernels_.nested_gemm(w, bits, a.view, 0, w.tiles(), y.row(begin), y.stride(), workspace.data());
      begin = end;
    }
    return y.Take();
  }

  std::vector<float> Rescore(const NestedMatrix& w, const std::vector<float>& x, const std::vector<int>& widths,
                             const std::vector<float>& logits, int64_t limit) override {
    std::vector<float> result = logits;
    std::vector<uint32_t> tokens(static_cast<size_t>(limit));
    std::vector<uint8_t> workspace(LikeliestWorkspaceBytes(w.rows, limit));
    const int64_t stride = w.units() * kUnitCols;
    std::vector<uint8_t> tile(static_cast<size_t>(kTileRows * stride));
    std::vector<float> scales(static_cast<size_t>(2 * w.groups()));
    for (size_t t = 0; t < widths.size(); ++t) {
      const int64_t row = static_cast<int64_t>(t) * w.rows;
      const int64_t count = IsRescored(widths[t]) ? kernels_.likeliest(logits.data() + row, w.rows, limit,
                                                                       tokens.data(), workspace.data())
                                                  : 0;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t token = tokens[static_cast<size_t>(i)];
        DecodeTile(w, token / kTileRows, tile.data(), stride);
        DecodeScales(w, token, scales.data());
        result[static_cast<size_t>(row + token)] =
            kernels_.dot_codes(tile.data() + token % kTileRows * stride, scales.data(),
                               x.data() + static_cast<int64_t>(t) * w.cols, w.cols, w.group_size);
      }
    }
    return result;
  }

  std::vector<float> Embedding(const NestedMatrix& w, const std::vector<uint32_t>& tokens) override {
    GuardedRows out(static_cast<int64_t>(tokens.size()), w.cols);
    for (size_t t = 0; t < tokens.size(); ++t) {
      DequantizeRow(w, tokens[t], kTopPrecision, {out.row(static_cast<int64_t>(t)), static_cast<size_t>(w.cols)});
    }
    return out.Take();
  }

  std::vector<float> RmsNorm(const std::vector<float>& x, int64_t ldx, const std::vector<float>& weight, int64_t m,
                             float eps) override {
    const auto n = static_cast<int64_t>(weight.size());
    GuardedRows y(m, n);
    kernels_.rms_norm(x.data(), ldx, weight.data(), m, n, eps, y.row(0), y.stride());
    return y.Take();
  }

  std::vector<float> SiluMul(const std::vector<float>& gate_up, int64_t m, int64_t n) override {
    GuardedRows out(m, n);
    for (int64_t t = 0; t < m; ++t) {
      kernels_.silu_mul(gate_up.data() + 2 * t * n, gate_up.data() + (2 * t + 1) * n, n, out.row(t));
    }
    return out.Take();
  }

  std::vector<float> Add(const std::vector<float>& x, const std::vector<float>& y, int64_t m, int64_t n) override {
    GuardedRows sum(m, n);
    for (int64_t t = 0; t < m; ++t) {
      std::copy_n(x.begin() + t * n, n, sum.row(t));
      kernels_.add(sum.row(t), y.data() + t * n, n);
    }
    return sum.Take();
  }

  RopeOutput RopeAndStore(const RopeInput& input) override {
    const AttentionShape& shape = input.shape;
    const int64_t d = shape.head_dim;
    RopeOutput out{{}, {}, input.v};
    std::vector<uint16_t> keys = ExchangeLastTwo(input.k, shape.block_tokens, d);
    for (size_t row = 0; row < input.positions.size(); ++row) {
      const auto begin = input.qkv.begin() + static_cast<int64_t>(row) * shape.q_stride;
      std::vector<float> x(begin, begin + shape.q_stride);
      float* k = x.data() + shape.num_heads * d;
      if (!input.bias.empty()) {
        kernels_.add(x.data(), input.bias.data(), shape.q_stride);
      }
      if (!input.q_norm.empty()) {
        kernels_.rms_norm(x.data(), d, input.q_norm.data(), shape.num_heads, d, input.norm_eps, x.data(), d);
        kernels_.rms_norm(k, d, input.k_norm.data(), shape.num_kv_heads, d, input.norm_eps, k, d);
      }
      const int64_t position = input.positions[row];
      const float* cos = input.cos.data() + position * (d / 2);
      const float* sin = input.sin.data() + position * (d / 2);
      kernels_.rope(x.data(), shape.num_heads, d, cos, sin);
      kernels_.rope(k, shape.num_kv_heads, d, cos, sin);
      out.q.insert(out.q.end(), x.data(), k);
      const int64_t block =
          input.tables[static_cast<size_t>(input.sequences[row] * input.table_stride + position / shape.block_tokens)];
      const int64_t at = block * shape.num_kv_heads * shape.block_tokens * d;
      const int64_t in_block = position % shape.block_tokens;
      kernels_.store_keys(k, shape.num_kv_heads, d, keys.data() + at + in_block, shape.block_tokens * d,
                          shape.block_tokens);
      kernels_.store_values(k + shape.num_kv_heads * d, shape.num_kv_heads, d, out.v.data() + at + in_block * d,
                            shape.block_tokens * d);
    }
    out.k = ExchangeLastTwo(keys, d, shape.block_tokens);
    return out;
  }

  std::vector<float> AttentionDecode(const AttentionInput& input) override { return Attend(input); }
  std::vector<float> AttentionPrefill(const AttentionInput& input) override { return Attend(input); }

  std::vector<SampledToken> Sample(const std::vector<float>& logits, int64_t vocab,
                                   const std::vector<SampleRow>& rows) override {
    std::vector<SampledToken> tokens;
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto begin = logits.begin() + static_cast<int64_t>(i) * vocab;
      std::vector<float> mine(begin, begin + vocab);
      tokens.push_back(SampleToken(kernels_, absl::MakeSpan(mine), rows[i].config, rows[i].counts, rows[i].draw,
                                   rows[i].top_logprobs));
    }
    return tokens;
  }

 private:
  std::vector<float> Attend(const AttentionInput& input) const {
    const CpuCache cache(input.shape, *input.cache);
    const AttentionShape& shape = cache.shape;
    int64_t rows = 0;
    for (const int64_t count : input.counts) {
      rows += count;
    }
    GuardedRows out(rows, shape.num_heads * shape.head_dim, shape.out_stride - shape.num_heads * shape.head_dim);
    int64_t row = 0;
    for (size_t s = 0; s < input.counts.size(); ++s) {
      const AttentionSequence sequence{input.q.data() + row * shape.q_stride, out.row(row), input.counts[s],
                                       input.starts[s], input.cache->table(s)};
      std::vector<uint8_t> workspace(AttentionWorkspaceBytes(shape, input.starts[s] + input.counts[s]));
      kernels_.attention(shape, sequence, cache.k.data(), cache.v.data(), 0, shape.num_heads, workspace.data());
      row += input.counts[s];
    }
    return out.Take();
  }

  const CpuKernels& kernels_;
};

}  // namespace

std::vector<BackendInfo> LinkedBackends(bool) {
  std::vector<BackendInfo> backends;
  for (const Isa isa : AllIsas()) {
    backends.push_back({std::string(IsaName(isa)), [isa]() -> absl::StatusOr<std::unique_ptr<Backend>> {
                          if (!IsaSupported(isa)) {
                            return absl::UnavailableError("not supported by this machine");
                          }
                          return std::make_unique<CpuBackend>(GetCpuKernels(isa));
                        }});
  }
  return backends;
}

}  // namespace flexquant::testing
