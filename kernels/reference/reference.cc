#include "kernels/reference/reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>

#include "common/rescoring.h"
#include "kernels/kv_8.h"

namespace flexquant::reference {
namespace {

double Bf16ToDouble(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return static_cast<double>(result);
}

int BitAt(int byte, int bit) { return (byte >> bit) & 1; }

// Code bits 7:5 of register `r` from the unit's three words' bytes, as the format's comment lists them.
int Base3Bits(int a, int b, int c, int r) {
  switch (r) {
    case 0:
      return (a >> 5) & 7;
    case 1:
      return (a >> 2) & 7;
    case 2:
      return (b >> 5) & 7;
    case 3:
      return (b >> 2) & 7;
    case 4:
      return (c >> 5) & 7;
    case 5:
      return (c >> 2) & 7;
    case 6:
      return ((a & 3) << 1) | BitAt(c, 1);
    default:
      return ((b & 3) << 1) | BitAt(c, 0);
  }
}

}  // namespace

double HalfToDouble(uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const int fraction = half & 1023;
  const double sign = (half & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) {
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  }
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

uint16_t DoubleToHalf(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  if (magnitude == 0) {
    return sign;
  }
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  exponent = std::max(exponent - 1, -14);
  // In steps of the last place; nearbyint rounds ties to even. A carry into the exponent adds up by itself.
  const auto steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return static_cast<uint16_t>(sign | (steps + ((exponent + 14) << 10)));
}

int Code(const NestedMatrix& w, int bits, int64_t row, int64_t col) {
  const int64_t tile = row / kTileRows;
  const int64_t unit = tile * w.units() + col / kUnitCols;
  const int r = static_cast<int>(col % kUnitCols / 4);
  const int64_t byte = 4 * (row % kTileRows) + col % 4;
  const uint8_t* base3 = w.base3 + unit * 3 * kPlaneWordBytes + byte;
  int code = Base3Bits(base3[0], base3[kPlaneWordBytes], base3[2 * kPlaneWordBytes], r) << 5;
  if (bits >= 4) {
    code |= BitAt(w.bit4[unit * kPlaneWordBytes + byte], r) << 4;
  }
  if (bits >= 5) {
    code |= BitAt(w.bit5[unit * kPlaneWordBytes + byte], r) << 3;
  }
  if (bits >= 6) {
    code |= BitAt(w.bit6[unit * kPlaneWordBytes + byte], r) << 2;
  }
  if (bits >= 8) {
    code |= (w.bits78[(unit * 2 + r / 4) * kPlaneWordBytes + byte] >> (2 * (r % 4))) & 3;
  }
  return code;
}

int64_t IntegerDot(const NestedMatrix& w, int bits, int64_t row, int64_t group, const int8_t* values) {
  int64_t dot = 0;
  for (int64_t col = group * w.group_size; col < std::min(w.cols, (group + 1) * w.group_size); ++col) {
    dot += static_cast<int64_t>(Code(w, bits, row, col)) * values[col];
  }
  return dot;
}

namespace {

const uint16_t* GroupScales(const NestedMatrix& w, int64_t row, int64_t group) {
  return w.scales + (row / kTileRows * w.groups() + group) * 2 * kTileRows + row % kTileRows;
}

double Offset(const NestedMatrix& w, int bits, int64_t row, int64_t group) {
  return ((1 << (8 - bits)) - 1) / 2.0 - HalfToDouble(GroupScales(w, row, group)[kTileRows]);
}

}  // namespace

double Weight(const NestedMatrix& w, int bits, int64_t row, int64_t col) {
  const int64_t group = col / w.group_size;
  return HalfToDouble(GroupScales(w, row, group)[0]) * (Code(w, bits, row, col) + Offset(w, bits, row, group));
}

Activations QuantizeActivations(const float* x, int64_t ldx, int64_t m, int64_t cols, int64_t group_size,
                                int64_t rows) {
  const int64_t stride = ActivationStride(cols);
  const int64_t groups = CeilDiv(cols, group_size);
  Activations result;
  result.values.assign(static_cast<size_t>(m * rows * stride), 0);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * group_size;
    const int64_t end = std::min(cols, begin + group_size);
    for (int64_t t = 0; t < m; ++t) {
      float max = 0;
      for (int64_t k = begin; k < end; ++k) {
        max = std::max(max, std::fabs(x[t * ldx + k]));
      }
      const float step = max / 127.0F < 0x1p-100F ? 0.0F : max / 127.0F;
      const float fine = step / 128.0F;
      int8_t* values = result.values.data() + t * rows * stride;
      float sum = 0;
      for (int64_t k = begin; k < end && step > 0; ++k) {
        const float value = std::nearbyint(x[t * ldx + k] / step);
        values[k] = static_cast<int8_t>(value);
        sum += rows == 2 ? 128.0F * value : value;
        if (rows == 2) {
          const double rest =
              static_cast<double>(x[t * ldx + k]) - static_cast<double>(value) * static_cast<double>(step);
          const float steps = std::nearbyint(static_cast<float>(rest) / fine);
          values[stride + k] = static_cast<int8_t>(steps);
          sum += steps;
        }
      }
      result.scales.push_back(rows == 2 ? fine : step);
      result.sums.push_back(sum);
    }
  }
  result.view = {m, cols, group_size, rows, result.values.data(), result.scales.data(), result.sums.data(), m};
  return result;
}

std::vector<double> NestedGemm(const NestedMatrix& w, int bits, const QuantizedActivations& a,
                               std::vector<double>* magnitude) {
  std::vector<double> y;
  const int64_t stride = ActivationStride(a.cols);
  for (int64_t t = 0; t < a.m; ++t) {
    const int8_t* values = a.values + t * a.rows * stride;
    for (int64_t row = 0; row < w.rows; ++row) {
      double sum = 0;
      double size = 0;
      for (int64_t g = 0; g < w.groups(); ++g) {
        const int64_t at = g * a.group_stride + t;
        const double scale = static_cast<double>(a.scales[at]) * HalfToDouble(*GroupScales(w, row, g));
        int64_t dot = IntegerDot(w, bits, row, g, values);
        if (a.rows == 2) {
          dot = 128 * dot + IntegerDot(w, bits, row, g, values + stride);
        }
        const double correction = Offset(w, bits, row, g) * static_cast<double>(a.sums[at]);
        sum += scale * (static_cast<double>(dot) + correction);
        size += std::fabs(scale) * (std::fabs(static_cast<double>(dot)) + std::fabs(correction));
      }
      y.push_back(sum);
      if (magnitude != nullptr) {
        magnitude->push_back(size);
      }
    }
  }
  return y;
}

std::vector<double> ReferenceGemm(const NestedMatrix& w, const float* x, int64_t ldx, int64_t m,
                                  std::vector<double>* magnitude) {
  std::vector<double> y;
  for (int64_t t = 0; t < m; ++t) {
    for (int64_t row = 0; row < w.rows; ++row) {
      double sum = 0;
      double size = 0;
      for (int64_t k = 0; k < w.cols; ++k) {
        const int64_t at = row * w.cols + k;
        const double weight = w.reference_dtype == Dtype::kBF16
                                  ? Bf16ToDouble(static_cast<const uint16_t*>(w.reference)[at])
                                  : static_cast<double>(static_cast<const float*>(w.reference)[at]);
        const double product = weight * static_cast<double>(x[t * ldx + k]);
        sum += product;
        size += std::fabs(product);
      }
      y.push_back(sum);
      if (magnitude != nullptr) {
        magnitude->push_back(size);
      }
    }
  }
  return y;
}

std::vector<double> RmsNorm(const float* x, const float* weight, int64_t n, double eps) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  const double rms = std::sqrt(squares / static_cast<double>(n) + eps);
  std::vector<double> y;
  for (int64_t i = 0; i < n; ++i) {
    y.push_back(static_cast<double>(x[i]) / rms * static_cast<double>(weight[i]));
  }
  return y;
}

std::vector<double> Rope(const float* x, int64_t num_heads, int64_t head_dim, const float* cos, const float* sin) {
  const int64_t half = head_dim / 2;
  std::vector<double> y(static_cast<size_t>(num_heads * head_dim));
  for (int64_t head = 0; head < num_heads; ++head) {
    for (int64_t i = 0; i < half; ++i) {
      const int64_t at = head * head_dim + i;
      const double a = static_cast<double>(x[at]);
      const double b = static_cast<double>(x[at + half]);
      y[static_cast<size_t>(at)] = a * static_cast<double>(cos[i]) - b * static_cast<double>(sin[i]);
      y[static_cast<size_t>(at + half)] = b * static_cast<double>(cos[i]) + a * static_cast<double>(sin[i]);
    }
  }
  return y;
}

std::vector<double> SiluMul(const float* gate, const float* up, int64_t n) {
  std::vector<double> y;
  for (int64_t i = 0; i < n; ++i) {
    const double g = static_cast<double>(gate[i]);
    y.push_back(g / (1.0 + std::exp(-g)) * static_cast<double>(up[i]));
  }
  return y;
}

namespace {

// `key(kv_head, block, slot, d)` and `value(...)` read the cache.
template <class Key, class Value>
std::vector<double> AttentionOver(const AttentionShape& shape, const AttentionSequence& sequence, Key key,
                                  Value value) {
  const int64_t group = shape.num_heads / shape.num_kv_heads;
  std::vector<double> out;
  for (int64_t t = 0; t < sequence.num_tokens; ++t) {
    const int64_t last = sequence.start + t;
    const int64_t first = shape.sliding_window > 0 ? std::max<int64_t>(0, last - shape.sliding_window + 1) : 0;
    for (int64_t head = 0; head < shape.num_heads; ++head) {
      const float* q = sequence.q + t * shape.q_stride + head * shape.head_dim;
      const auto block = [&](int64_t position) {
        return static_cast<int64_t>(sequence.block_table[position / shape.block_tokens]);
      };
      std::vector<double> weights;
      for (int64_t position = first; position <= last; ++position) {
        double score = 0;
        for (int64_t d = 0; d < shape.head_dim; ++d) {
          score += static_cast<double>(q[d]) * key(head / group, block(position), position % shape.block_tokens, d);
        }
        weights.push_back(score * static_cast<double>(shape.scale));
      }
      const double max = *std::max_element(weights.begin(), weights.end());
      double sum = 0;
      for (double& weight : weights) {
        weight = std::exp(weight - max);
        sum += weight;
      }
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        double output = 0;
        for (int64_t position = first; position <= last; ++position) {
          output += weights[static_cast<size_t>(position - first)] / sum *
                    value(head / group, block(position), position % shape.block_tokens, d);
        }
        out.push_back(output);
      }
    }
  }
  return out;
}

}  // namespace

std::vector<double> Attention(const AttentionShape& shape, const AttentionSequence& sequence, const uint16_t* k_cache,
                              const uint16_t* v_cache) {
  const auto half = [&](const uint16_t* cache) {
    return [&shape, cache](int64_t kv_head, int64_t block, int64_t slot, int64_t d) {
      const int64_t row = (block * shape.num_kv_heads + kv_head) * shape.block_tokens + slot;
      return HalfToDouble(cache[row * shape.head_dim + d]);
    };
  };
  return AttentionOver(shape, sequence, half(k_cache), half(v_cache));
}

std::vector<double> Attention8(const AttentionShape& shape, const AttentionSequence& sequence, const uint8_t* k_cache,
                               const uint8_t* v_cache) {
  const Kv8Slab<void> layout{CeilDiv(shape.head_dim, int64_t{16}) * 16};
  const auto slab = [&](const uint8_t* cache, int64_t kv_head, int64_t block, int64_t slot) {
    return cache + ((kv_head * shape.num_blocks + block) * shape.block_tokens + slot) / 16 * layout.bytes();
  };
  const auto key = [&](int64_t kv_head, int64_t block, int64_t slot, int64_t d) {
    const uint8_t* at = slab(k_cache, kv_head, block, slot);
    return HalfToDouble(layout.scales(at)[slot % 16]) * layout.codes(at)[(d / 4 * 16 + slot % 16) * 4 + d % 4];
  };
  const auto value = [&](int64_t kv_head, int64_t block, int64_t slot, int64_t d) {
    const uint8_t* at = slab(v_cache, kv_head, block, slot);
    return HalfToDouble(layout.scales(at)[slot % 16]) *
           layout.codes(at)[(slot % 16 / 4 * layout.padded + d) * 4 + slot % 4];
  };
  return AttentionOver(shape, sequence, key, value);
}

std::vector<int64_t> Likeliest(const float* logits, int64_t n, int64_t limit) {
  const float largest = *std::max_element(logits, logits + n);
  std::vector<int64_t> kept;
  for (int k = 1; k <= kRescoringSteps; ++k) {
    std::vector<int64_t> within;
    for (int64_t i = 0; i < n; ++i) {
      if (std::floor((largest - logits[i]) * kRescoringStepsPerNat) < static_cast<float>(k)) {
        within.push_back(i);
      }
    }
    if (static_cast<int64_t>(within.size()) > limit) {
      break;
    }
    kept = std::move(within);
  }
  return kept;
}

Stats LogitStats(const float* logits, int64_t n) {
  Stats stats;
  std::vector<double> sorted(logits, logits + n);
  stats.argmax = static_cast<uint32_t>(std::max_element(logits, logits + n) - logits);
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  stats.max_logit = sorted[0];
  stats.margin = n > 1 ? sorted[0] - sorted[1] : 0;
  double sum = 0;
  for (const double x : sorted) {
    sum += std::exp(x - stats.max_logit);
  }
  stats.log_sum_exp = stats.max_logit + std::log(sum);
  stats.top1_probability = 1 / sum;
  for (const double x : sorted) {
    const double p = std::exp(x - stats.log_sum_exp);
    stats.entropy_nats -= p > 0 ? p * (x - stats.log_sum_exp) : 0;
  }
  return stats;
}

double KlDivergence(const float* p, const float* q, int64_t n) {
  const double p_log_sum = LogitStats(p, n).log_sum_exp;
  const double q_log_sum = LogitStats(q, n).log_sum_exp;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double log_p = static_cast<double>(p[i]) - p_log_sum;
    const double log_q = static_cast<double>(q[i]) - q_log_sum;
    sum += std::exp(log_p) * (log_p - log_q);
  }
  return sum;
}

}  // namespace flexquant::reference
