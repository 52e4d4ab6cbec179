#include "common/store/nested_quantizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "common/check.h"
#include "common/half.h"
#include "common/store/group_fit.h"
#include "common/thread_pool.h"

namespace flexquant {
namespace {

constexpr int kUnitRegisters = 8;
constexpr int kRegisterCols = 4;

// Codes of one unit of a tile, [8 registers][16 rows * 4 columns], into the planes' words.
using UnitCodes = std::array<std::array<uint8_t, kPlaneWordBytes>, kUnitRegisters>;

struct UnitPlanes {
  uint8_t* base3;
  uint8_t* bit4;
  uint8_t* bit5;
  uint8_t* bit6;
  uint8_t* bits78;
};

void PackUnit(const UnitCodes& f, const UnitPlanes& out) {
  const auto top3 = [](uint8_t code) { return static_cast<uint8_t>(code >> 5U); };
  for (size_t i = 0; i < kPlaneWordBytes; ++i) {
    const uint8_t f6 = top3(f[6][i]);
    const uint8_t f7 = top3(f[7][i]);
    out.base3[i] = static_cast<uint8_t>(top3(f[0][i]) << 5U | top3(f[1][i]) << 2U | f6 >> 1U);
    out.base3[kPlaneWordBytes + i] = static_cast<uint8_t>(top3(f[2][i]) << 5U | top3(f[3][i]) << 2U | f7 >> 1U);
    out.base3[2 * kPlaneWordBytes + i] =
        static_cast<uint8_t>(top3(f[4][i]) << 5U | top3(f[5][i]) << 2U | (f6 & 1U) << 1U | (f7 & 1U));
    for (unsigned r = 0; r < kUnitRegisters; ++r) {
      const unsigned code = f[r][i];
      out.bit4[i] = static_cast<uint8_t>(out.bit4[i] | (code >> 4U & 1U) << r);
      out.bit5[i] = static_cast<uint8_t>(out.bit5[i] | (code >> 3U & 1U) << r);
      out.bit6[i] = static_cast<uint8_t>(out.bit6[i] | (code >> 2U & 1U) << r);
      uint8_t& low = out.bits78[(r / 4) * kPlaneWordBytes + i];
      low = static_cast<uint8_t>(low | (code & 3U) << (2 * (r % 4)));
    }
  }
}

// Quantises the rows of one tile and packs them.
void QuantizeTile(absl::Span<const float> weights, absl::Span<const float> importance, int64_t tile,
                  NestedMatrixBuffers& out) {
  const NestedMatrix shape = out.view();
  const int64_t units = shape.units();
  std::vector<UnitCodes> codes(static_cast<size_t>(units), UnitCodes{});
  for (int64_t row = 0; row < kTileRows; ++row) {
    const int64_t n = tile * kTileRows + row;
    if (n >= out.rows) {
      break;
    }
    for (int64_t group = 0; group < shape.groups(); ++group) {
      const int64_t begin = group * out.group_size;
      const int64_t end = std::min(begin + out.group_size, out.cols);
      const auto values = weights.subspan(static_cast<size_t>(n * out.cols + begin), static_cast<size_t>(end - begin));
      const GroupFit fit = FitGroup(
          values, importance.empty() ? importance : importance.subspan(static_cast<size_t>(begin), values.size()));
      if (fit.scale == 0) {
        continue;
      }
      uint16_t* scales = &out.scales[static_cast<size_t>((tile * shape.groups() + group) * 2 * kTileRows)];
      scales[row] = FloatToHalf(fit.scale);
      scales[kTileRows + row] = FloatToHalf(fit.zero);
      const float inverse = 1 / fit.scale;
      for (int64_t k = begin; k < end; ++k) {
        const int64_t in_unit = k % kUnitCols;
        codes[static_cast<size_t>(k / kUnitCols)][static_cast<size_t>(in_unit / kRegisterCols)]
             [static_cast<size_t>(row * kRegisterCols + in_unit % kRegisterCols)] =
                 static_cast<uint8_t>(CodeAt(values[static_cast<size_t>(k - begin)] * inverse + fit.zero));
      }
    }
  }
  for (int64_t unit = 0; unit < units; ++unit) {
    const size_t word = static_cast<size_t>((tile * units + unit) * kPlaneWordBytes);
    PackUnit(codes[static_cast<size_t>(unit)],
             {&out.base3[3 * word], &out.bit4[word], &out.bit5[word], &out.bit6[word], &out.bits78[2 * word]});
  }
}

}  // namespace

NestedMatrix NestedMatrixBuffers::view() const {
  NestedMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.group_size = group_size;
  matrix.base3 = base3.data();
  matrix.bit4 = bit4.data();
  matrix.bit5 = bit5.data();
  matrix.bit6 = bit6.data();
  matrix.bits78 = bits78.data();
  matrix.scales = scales.data();
  return matrix;
}

NestedMatrixBuffers QuantizeNested(absl::Span<const float> weights, int64_t rows, int64_t cols, int64_t group_size,
                                   int num_threads, absl::Span<const float> importance) {
  FQ_CHECK(weights.size() == static_cast<size_t>(rows * cols));
  FQ_CHECK(importance.empty() || importance.size() == static_cast<size_t>(cols));
  FQ_CHECK(group_size > 0 && group_size % kUnitCols == 0);
  NestedMatrixBuffers out;
  out.rows = rows;
  out.cols = cols;
  out.group_size = group_size;
  const NestedMatrix shape = out.view();
  const size_t words = static_cast<size_t>(shape.tiles() * shape.units() * kPlaneWordBytes);
  out.base3.resize(3 * words);
  out.bit4.resize(words);
  out.bit5.resize(words);
  out.bit6.resize(words);
  out.bits78.resize(2 * words);
  out.scales.resize(static_cast<size_t>(shape.tiles() * shape.groups() * 2 * kTileRows));
  ThreadPool pool(num_threads);
  pool.ParallelFor(shape.tiles(), [&](int64_t begin, int64_t end, int /*thread*/) {
    for (int64_t tile = begin; tile < end; ++tile) {
      QuantizeTile(weights, importance, tile, out);
    }
  });
  return out;
}

void DequantizeRow(const NestedMatrix& matrix, int64_t row, int bits, absl::Span<float> out) {
  FQ_CHECK(row >= 0 && row < matrix.rows && out.size() == static_cast<size_t>(matrix.cols));
  const int64_t tile = row / kTileRows;
  const int64_t lane = row % kTileRows;
  const unsigned dropped = static_cast<unsigned>(8 - bits);
  const unsigned mask = 0xFFU & ~((1U << dropped) - 1U);
  const float mid = (static_cast<float>(1U << dropped) - 1.0F) / 2.0F;
  for (int64_t k = 0; k < matrix.cols; ++k) {
    const int64_t word = (tile * matrix.units() + k / kUnitCols) * kPlaneWordBytes;
    const unsigned r = static_cast<unsigned>(k % kUnitCols / kRegisterCols);
    const int64_t byte = lane * kRegisterCols + k % kRegisterCols;
    const unsigned a = matrix.base3[3 * word + byte];
    const unsigned b = matrix.base3[3 * word + kPlaneWordBytes + byte];
    const unsigned c = matrix.base3[3 * word + 2 * kPlaneWordBytes + byte];
    const std::array<unsigned, kUnitRegisters> top3 = {a >> 5U,
                                                       a >> 2U & 7U,
                                                       b >> 5U,
                                                       b >> 2U & 7U,
                                                       c >> 5U,
                                                       c >> 2U & 7U,
                                                       (a & 3U) << 1U | (c >> 1U & 1U),
                                                       (b & 3U) << 1U | (c & 1U)};
    unsigned code = top3[r] << 5U;
    code |= (matrix.bit4[word + byte] >> r & 1U) << 4U;
    code |= (matrix.bit5[word + byte] >> r & 1U) << 3U;
    code |= (matrix.bit6[word + byte] >> r & 1U) << 2U;
    code |= matrix.bits78[2 * word + (r / 4) * kPlaneWordBytes + byte] >> (2 * (r % 4)) & 3U;
    const uint16_t* scales = matrix.scales + (tile * matrix.groups() + k / matrix.group_size) * 2 * kTileRows;
    out[static_cast<size_t>(k)] =
        HalfToFloat(scales[lane]) * (static_cast<float>(code & mask) + mid - HalfToFloat(scales[kTileRows + lane]));
  }
}

}  // namespace flexquant
