// nested_gemm in plain C++.

#include <cstring>

#include "kernels/cpu/tables.h"
#include "kernels/cpu/unpack.h"
#include "kernels/cpu/vec_portable.h"

namespace flexquant::portable {
namespace {

struct Bytes {
  static constexpr int64_t kBytes = 64;
  uint8_t v[kBytes];

  static Bytes Load(const uint8_t* from) {
    Bytes result;
    std::memcpy(result.v, from, sizeof(result.v));
    return result;
  }
  static Bytes Set(int byte) {
    Bytes result;
    std::memset(result.v, byte, sizeof(result.v));
    return result;
  }
  template <int kShift>
  static Bytes Shift(const Bytes& from) {
    Bytes result;
    for (int64_t i = 0; i < kBytes; ++i) {
      if constexpr (kShift >= 0) {
        result.v[i] = static_cast<uint8_t>(from.v[i] << kShift);
      } else {
        result.v[i] = static_cast<uint8_t>(from.v[i] >> -kShift);
      }
    }
    return result;
  }
  friend Bytes And(const Bytes& a, const Bytes& b) {
    Bytes result;
    for (int64_t i = 0; i < kBytes; ++i) {
      result.v[i] = a.v[i] & b.v[i];
    }
    return result;
  }
  friend Bytes Merge(const Bytes& acc, const Bytes& from, const Bytes& mask) {
    Bytes result;
    for (int64_t i = 0; i < kBytes; ++i) {
      result.v[i] = acc.v[i] | (from.v[i] & mask.v[i]);
    }
    return result;
  }
  friend Bytes Select(const Bytes& mask, const Bytes& a, const Bytes& b) {
    Bytes result;
    for (int64_t i = 0; i < kBytes; ++i) {
      result.v[i] = static_cast<uint8_t>((mask.v[i] & a.v[i]) | (~mask.v[i] & b.v[i]));
    }
    return result;
  }
};

// dot = factor * dot + one group of one tile times a row. codes: [units, 8] words.
void MultiplyGroup(const Bytes* codes, int64_t units, const int8_t* x, int32_t factor, int32_t* dot) {
  for (int64_t row = 0; row < kTileRows; ++row) {
    dot[row] *= factor;
  }
  for (int64_t word = 0; word < units * 8; ++word) {
    const uint8_t* u = codes[word].v;
    const int8_t* a = x + 4 * word;
    for (int64_t row = 0; row < kTileRows; ++row) {
      dot[row] += u[4 * row] * a[0] + u[4 * row + 1] * a[1] + u[4 * row + 2] * a[2] + u[4 * row + 3] * a[3];
    }
  }
}

// One group of one tile for one token.
template <bool kPairs>
void AccumulateGroup(const Bytes* codes, int64_t units, const QuantizedActivations& a, int64_t token, int64_t group,
                     const float* w_scale, const float* w_offset, float* y) {
  const int64_t stride = ActivationStride(a.cols);
  const int8_t* x = a.values + token * kRowsOf<kPairs> * stride + group * a.group_size;
  int32_t dot[kTileRows] = {};
  MultiplyGroup(codes, units, x, 1, dot);
  if constexpr (kPairs) {
    MultiplyGroup(codes, units, x + stride, 128, dot);
  }
  const float x_scale = a.scales[group * a.group_stride + token];
  const float x_sum = a.sums[group * a.group_stride + token];
  for (int64_t row = 0; row < kTileRows; ++row) {
    y[row] += (w_scale[row] * x_scale) * (static_cast<float>(dot[row]) + w_offset[row] * x_sum);
  }
}

template <int kBits, bool kPairs>
void Gemm(const NestedGemmArgs& args) {
  const NestedMatrix& w = args.w;
  const QuantizedActivations& a = args.a;
  const int64_t units = (w.cols + kUnitCols - 1) / kUnitCols;
  const int64_t group_units = w.group_size / kUnitCols;
  const int64_t groups = (units + group_units - 1) / group_units;
  auto* codes = static_cast<Bytes*>(args.workspace);
  auto* sums = reinterpret_cast<float*>(static_cast<uint8_t*>(args.workspace) + kUnpackedBytes);
  constexpr float kMid = static_cast<float>((1 << (8 - kBits)) - 1) * 0.5F;
  for (int64_t tile = args.tile_begin; tile < args.tile_end; ++tile) {
    const TilePlanes<Bytes> planes(w, tile, units);
    const int64_t rows = w.rows - tile * kTileRows < kTileRows ? w.rows - tile * kTileRows : kTileRows;
    for (int64_t t0 = 0; t0 < a.m; t0 += kTokenChunk) {
      const int64_t tokens = a.m - t0 < kTokenChunk ? a.m - t0 : kTokenChunk;
      std::memset(sums, 0, static_cast<size_t>(tokens * kTileRows) * sizeof(float));
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t first = g * group_units;
        const int64_t count = units - first < group_units ? units - first : group_units;
        for (int64_t u = 0; u < count; ++u) {
          UnpackUnit<Bytes, kBits>(planes, first + u, 0, codes + u * 8);
        }
        const uint16_t* packed = w.scales + (tile * groups + g) * 2 * kTileRows;
        float w_scale[kTileRows];
        float w_offset[kTileRows];
        for (int64_t row = 0; row < kTileRows; ++row) {
          w_scale[row] = HalfToFloat(packed[row]);
          w_offset[row] = kMid - HalfToFloat(packed[kTileRows + row]);
        }
        for (int64_t t = 0; t < tokens; ++t) {
          AccumulateGroup<kPairs>(codes, count, a, t0 + t, g, w_scale, w_offset, sums + t * kTileRows);
        }
      }
      for (int64_t t = 0; t < tokens; ++t) {
        std::memcpy(args.y + (t0 + t) * args.ldy + tile * kTileRows, sums + t * kTileRows,
                    static_cast<size_t>(rows) * sizeof(float));
      }
    }
  }
}

}  // namespace

void NestedGemm(const NestedMatrix& w, int bits, const QuantizedActivations& a, int64_t tile_begin, int64_t tile_end,
                float* y, int64_t ldy, void* workspace) {
  const NestedGemmArgs args{w, a, tile_begin, tile_end, y, ldy, workspace};
  WithWidthAndPairs(bits, a, [&](auto width, auto pairs) { Gemm<width, pairs>(args); });
}

}  // namespace flexquant::portable
