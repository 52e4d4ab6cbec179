#include "tests/executor/naive_forward.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "common/half.h"
#include "common/rescoring.h"
#include "common/store/nested_quantizer.h"
#include "kernels/reference/reference.h"

namespace flexquant::executor {
namespace {

using Vector = std::vector<double>;

std::vector<float> WeightRow(const NestedMatrix& w, int64_t row, int bits) {
  std::vector<float> out(static_cast<size_t>(w.cols));
  if (bits != kReferencePrecision) {
    DequantizeRow(w, row, bits, absl::MakeSpan(out));
    return out;
  }
  for (int64_t col = 0; col < w.cols; ++col) {
    const int64_t at = row * w.cols + col;
    out[static_cast<size_t>(col)] = w.reference_dtype == Dtype::kF32
                                        ? static_cast<const float*>(w.reference)[at]
                                        : Bfloat16ToFloat(static_cast<const uint16_t*>(w.reference)[at]);
  }
  return out;
}

// What x becomes as integers of `bits` bits with one scale a group. 15 bits are 127 steps of 128 parts.
Vector RoundActivations(Vector x, int64_t group_size, int bits) {
  for (size_t begin = 0; begin < x.size(); begin += static_cast<size_t>(group_size)) {
    const size_t end = std::min(x.size(), begin + static_cast<size_t>(group_size));
    double max = 0;
    for (size_t i = begin; i < end; ++i) {
      max = std::max(max, std::fabs(x[i]));
    }
    const double scale = bits == 8 ? max / 127 : max / (127 * 128);
    for (size_t i = begin; i < end && scale > 0; ++i) {
      x[i] = std::nearbyint(x[i] / scale) * scale;
    }
  }
  return x;
}

// `activation_bits` means nothing at 16 bits.
Vector Multiply(const NestedMatrix& w, int bits, int activation_bits, const Vector& x, absl::Span<const float> bias) {
  const Vector input = bits == kReferencePrecision ? x : RoundActivations(x, w.group_size, activation_bits);
  Vector y(static_cast<size_t>(w.rows));
  for (size_t row = 0; row < y.size(); ++row) {
    const std::vector<float> weights = WeightRow(w, static_cast<int64_t>(row), bits);
    y[row] = bias.empty() ? 0.0 : static_cast<double>(bias[row]);
    for (size_t col = 0; col < input.size(); ++col) {
      y[row] += static_cast<double>(weights[col]) * input[col];
    }
  }
  return y;
}

void Rescore(const NestedMatrix& head, const Vector& input, Vector& logits) {
  const std::vector<float> floats(logits.begin(), logits.end());
  for (const int64_t token : reference::Likeliest(floats.data(), head.rows, RescoredRows(head.rows))) {
    const std::vector<float> weights = WeightRow(head, token, kTopPrecision);
    logits[static_cast<size_t>(token)] = std::inner_product(input.begin(), input.end(), weights.begin(), 0.0);
  }
}

Vector Normed(const Vector& x, absl::Span<const float> weight, double eps) {
  double squares = 0;
  for (const double value : x) {
    squares += value * value;
  }
  const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + eps);
  Vector y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    y[i] = x[i] * scale * static_cast<double>(weight[i]);
  }
  return y;
}

// A head of q or k at a position.
void Rotate(const RopeConfig& rope, size_t position, Vector& head) {
  const size_t half = head.size() / 2;
  for (size_t i = 0; i < half; ++i) {
    double frequency = 1 / std::pow(rope.theta, 2 * static_cast<double>(i) / static_cast<double>(head.size()));
    const double wavelength = 2 * std::numbers::pi / frequency;
    const auto original = static_cast<double>(rope.original_max_position);
    if (!rope.frequency_divisors.empty()) {
      frequency /= static_cast<double>(rope.frequency_divisors[i]);
    } else if (rope.scaling == RopeScaling::kLinear) {
      frequency /= rope.factor;
    } else if (rope.scaling == RopeScaling::kLlama3 && wavelength > original / rope.low_freq_factor) {
      frequency /= rope.factor;
    } else if (rope.scaling == RopeScaling::kLlama3 && wavelength >= original / rope.high_freq_factor) {
      const double smooth =
          (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
      frequency = (1 - smooth) * frequency / rope.factor + smooth * frequency;
    }
    const double angle = static_cast<double>(position) * frequency;
    const double a = head[i];
    const double b = head[i + half];
    head[i] = a * std::cos(angle) - b * std::sin(angle);
    head[i + half] = b * std::cos(angle) + a * std::sin(angle);
  }
}

Vector Slice(const Vector& x, int64_t begin, int64_t count) { return {x.begin() + begin, x.begin() + begin + count}; }

void RoundToHalf(Vector& x) {
  for (double& value : x) {
    value = static_cast<double>(HalfToFloat(FloatToHalf(static_cast<float>(value))));
  }
}

// All positions' attention outputs of one layer from their fused q, k, v.
std::vector<Vector> Attention(const ModelConfig& config, const BlockWeights& block, const std::vector<Vector>& qkv) {
  const int64_t head_dim = config.head_dim;
  const auto head_of = [&](size_t position, int64_t offset, int64_t head, absl::Span<const float> norm) {
    Vector x = Slice(qkv[position], offset + head * head_dim, head_dim);
    if (config.qk_norm) {
      x = Normed(x, norm, config.rms_norm_eps);
    }
    Rotate(config.rope, position, x);
    return x;
  };
  std::vector<Vector> out(qkv.size(), Vector(static_cast<size_t>(config.q_size())));
  for (int64_t head = 0; head < config.num_heads; ++head) {
    const int64_t kv_head = head / (config.num_heads / config.num_kv_heads);
    std::vector<Vector> keys;
    std::vector<Vector> values;
    for (size_t p = 0; p < qkv.size(); ++p) {
      keys.push_back(head_of(p, config.q_size(), kv_head, block.k_norm));
      values.push_back(Slice(qkv[p], config.q_size() + config.kv_size() + kv_head * head_dim, head_dim));
      RoundToHalf(keys.back());
      RoundToHalf(values.back());
    }
    for (size_t p = 0; p < qkv.size(); ++p) {
      const Vector q = head_of(p, 0, head, block.q_norm);
      const auto window = static_cast<size_t>(config.sliding_window);
      const size_t first = window > 0 && p + 1 > window ? p + 1 - window : 0;
      Vector weights;
      for (size_t k = first; k <= p; ++k) {
        double dot = 0;
        for (size_t d = 0; d < q.size(); ++d) {
          dot += q[d] * keys[k][d];
        }
        weights.push_back(dot / std::sqrt(static_cast<double>(head_dim)));
      }
      const double max = *std::max_element(weights.begin(), weights.end());
      double sum = 0;
      for (double& weight : weights) {
        weight = std::exp(weight - max);
        sum += weight;
      }
      for (size_t k = first; k <= p; ++k) {
        for (int64_t d = 0; d < head_dim; ++d) {
          out[p][static_cast<size_t>(head * head_dim + d)] +=
              weights[k - first] / sum * values[k][static_cast<size_t>(d)];
        }
      }
    }
  }
  return out;
}

void Add(Vector& x, const Vector& y) {
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] += y[i];
  }
}

}  // namespace

std::vector<double> NaiveForward(const ModelStore& store, const std::vector<uint32_t>& tokens,
                                 const PrecisionPlan& plan) {
  const ModelConfig& config = store.config();
  const bool reference = plan.bits[0] == kReferencePrecision;
  std::vector<Vector> x;
  for (const uint32_t token : tokens) {
    const std::vector<float> row = WeightRow(store.embedding(), token, reference ? kReferencePrecision : kTopPrecision);
    x.emplace_back(row.begin(), row.end());
  }
  const auto multiply = [&](const NestedMatrix& w, int bits, const Vector& input, absl::Span<const float> bias) {
    return Multiply(w, bits, ActivationBits(bits, store.fine_activations_from()), input, bias);
  };
  size_t group = 0;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const BlockWeights& block = store.block(layer);
    std::vector<Vector> qkv;
    for (const Vector& token : x) {
      qkv.push_back(multiply(block.qkv, plan.bits[group], Normed(token, block.attention_norm, config.rms_norm_eps),
                             block.qkv_bias));
    }
    const std::vector<Vector> attended = Attention(config, block, qkv);
    for (size_t p = 0; p < x.size(); ++p) {
      Add(x[p], multiply(block.o, plan.bits[group + 1], attended[p], block.o_bias));
      const Vector gate_up = multiply(block.gate_up, plan.bits[group + 2],
                                      Normed(x[p], block.mlp_norm, config.rms_norm_eps), block.gate_up_bias);
      Vector mixed(static_cast<size_t>(config.intermediate_size));
      for (size_t i = 0; i < mixed.size(); ++i) {
        mixed[i] = gate_up[i] / (1 + std::exp(-gate_up[i])) * gate_up[mixed.size() + i];
      }
      Add(x[p], multiply(block.down, plan.bits[group + 3], mixed, block.down_bias));
    }
    group += 4;
  }
  std::vector<double> logits;
  for (const Vector& token : x) {
    const Vector input = Normed(token, store.final_norm(), config.rms_norm_eps);
    Vector row = multiply(store.lm_head(), plan.bits[group], input, {});
    if (IsRescored(plan.bits[group])) {
      Rescore(store.lm_head(), input, row);
    }
    logits.insert(logits.end(), row.begin(), row.end());
  }
  return logits;
}

}  // namespace flexquant::executor
