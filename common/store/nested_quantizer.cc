#include "common/store/nested_quantizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>

#include "common/check.h"
#include "common/half.h"
#include "common/store/code_descent.h"
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

// The leading three bits of every register's code, from a byte each of base3's words A, B and C.
std::array<unsigned, kUnitRegisters> Top3(unsigned a, unsigned b, unsigned c) {
  return {a >> 5U,
          a >> 2U & 7U,
          b >> 5U,
          b >> 2U & 7U,
          c >> 5U,
          c >> 2U & 7U,
          (a & 3U) << 1U | (c >> 1U & 1U),
          (b & 3U) << 1U | (c & 1U)};
}

// What PackUnit packed, of unit `index` of a whole matrix.
UnitCodes UnpackUnit(const NestedMatrix& matrix, int64_t index) {
  const uint8_t* base3 = matrix.base3 + 3 * index * kPlaneWordBytes;
  const uint8_t* bit4 = matrix.bit4 + index * kPlaneWordBytes;
  const uint8_t* bit5 = matrix.bit5 + index * kPlaneWordBytes;
  const uint8_t* bit6 = matrix.bit6 + index * kPlaneWordBytes;
  const uint8_t* bits78 = matrix.bits78 + 2 * index * kPlaneWordBytes;
  UnitCodes codes;
  for (size_t i = 0; i < kPlaneWordBytes; ++i) {
    const unsigned a = base3[i];
    const unsigned b = base3[kPlaneWordBytes + i];
    const unsigned c = base3[2 * kPlaneWordBytes + i];
    const auto top3 = Top3(a, b, c);
    for (unsigned r = 0; r < kUnitRegisters; ++r) {
      const unsigned low = bits78[(r / 4) * kPlaneWordBytes + i];
      codes[r][i] = static_cast<uint8_t>(top3[r] << 5U | (bit4[i] >> r & 1U) << 4U | (bit5[i] >> r & 1U) << 3U |
                                         (bit6[i] >> r & 1U) << 2U | (low >> (2 * (r % 4)) & 3U));
    }
  }
  return codes;
}

struct Source {
  absl::Span<const float> weights;     // [rows, cols]
  absl::Span<const float> importance;  // [cols] or empty
  const InputMoments* moments = nullptr;
};

// One row's codes, and what they stand for.
class RowQuantizer {
 public:
  RowQuantizer(const Source& source, int64_t cols, int64_t group_size)
      : source_(source),
        group_size_(group_size),
        positions_(static_cast<size_t>(cols)),
        scales_(positions_.size()),
        codes_(positions_.size()) {
    if (source.moments != nullptr) {
      descent_.emplace(*source.moments);
    }
  }

  // Scales and zeros go to `pairs`, a group 2 * kTileRows further than the one before; those of zeros stay as they are.
  const std::vector<uint8_t>& Quantize(int64_t row, uint16_t* pairs) {
    const auto cols = static_cast<int64_t>(codes_.size());
    for (int64_t begin = 0; begin < cols; begin += group_size_, pairs += 2 * kTileRows) {
      FitRange(row, begin, std::min(begin + group_size_, cols), pairs);
    }
    if (descent_.has_value()) {
      descent_->Refine(positions_, scales_, absl::MakeSpan(codes_));
    }
    return codes_;
  }

 private:
  void FitRange(int64_t row, int64_t begin, int64_t end, uint16_t* pair) {
    const auto size = static_cast<size_t>(end - begin);
    const auto values =
        source_.weights.subspan(static_cast<size_t>(row) * codes_.size() + static_cast<size_t>(begin), size);
    const GroupFit fit =
        FitGroup(values, source_.importance.empty() ? source_.importance
                                                    : source_.importance.subspan(static_cast<size_t>(begin), size));
    std::fill(scales_.begin() + begin, scales_.begin() + end, fit.scale);
    std::fill(codes_.begin() + begin, codes_.begin() + end, 0);
    if (fit.scale == 0) {
      return;
    }
    pair[0] = FloatToHalf(fit.scale);
    pair[kTileRows] = FloatToHalf(fit.zero);
    const float inverse = 1 / fit.scale;
    for (size_t i = 0; i < size; ++i) {
      const size_t k = static_cast<size_t>(begin) + i;
      positions_[k] = values[i] * inverse + fit.zero;
      codes_[k] = static_cast<uint8_t>(CodeAt(positions_[k]));
    }
  }

  const Source& source_;
  const int64_t group_size_;
  std::vector<float> positions_;
  std::vector<float> scales_;
  std::vector<uint8_t> codes_;
  std::optional<CodeDescent> descent_;
};

// Quantises the rows of one tile and packs them.
void QuantizeTile(RowQuantizer& quantizer, int64_t tile, NestedMatrixBuffers& out) {
  const NestedMatrix shape = out.view();
  const int64_t units = shape.units();
  std::vector<UnitCodes> codes(static_cast<size_t>(units), UnitCodes{});
  for (int64_t row = 0; row < std::min(kTileRows, out.rows - tile * kTileRows); ++row) {
    const std::vector<uint8_t>& row_codes = quantizer.Quantize(
        tile * kTileRows + row, &out.scales[static_cast<size_t>(tile * shape.groups() * 2 * kTileRows + row)]);
    for (int64_t k = 0; k < out.cols; ++k) {
      const int64_t in_unit = k % kUnitCols;
      codes[static_cast<size_t>(k / kUnitCols)][static_cast<size_t>(in_unit / kRegisterCols)]
           [static_cast<size_t>(row * kRegisterCols + in_unit % kRegisterCols)] = row_codes[static_cast<size_t>(k)];
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
                                   int num_threads, absl::Span<const float> importance, const InputMoments* moments) {
  FQ_CHECK(weights.size() == static_cast<size_t>(rows * cols));
  FQ_CHECK(importance.empty() || importance.size() == static_cast<size_t>(cols));
  FQ_CHECK(moments == nullptr || moments->cols() == cols);
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
  const Source source = {weights, importance, moments};
  ThreadPool pool(num_threads);
  pool.ParallelFor(shape.tiles(), [&](int64_t begin, int64_t end, int /*thread*/) {
    RowQuantizer quantizer(source, cols, group_size);
    for (int64_t tile = begin; tile < end; ++tile) {
      QuantizeTile(quantizer, tile, out);
    }
  });
  return out;
}

void DecodeTile(const NestedMatrix& matrix, int64_t tile, uint8_t* codes, int64_t stride) {
  FQ_CHECK(tile >= 0 && tile < matrix.tiles());
  for (int64_t unit = 0; unit < matrix.units(); ++unit) {
    const UnitCodes registers = UnpackUnit(matrix, tile * matrix.units() + unit);
    for (int64_t r = 0; r < kUnitRegisters; ++r) {
      for (int64_t row = 0; row < kTileRows; ++row) {
        std::memcpy(codes + row * stride + unit * kUnitCols + r * kRegisterCols,
                    registers[static_cast<size_t>(r)].data() + row * kRegisterCols, kRegisterCols);
      }
    }
  }
}

void DecodeScales(const NestedMatrix& matrix, int64_t row, float* scales) {
  FQ_CHECK(row >= 0 && row < matrix.tiles() * kTileRows);
  const uint16_t* pairs = matrix.scales + row / kTileRows * matrix.groups() * 2 * kTileRows + row % kTileRows;
  for (int64_t group = 0; group < matrix.groups(); ++group, pairs += 2 * kTileRows) {
    scales[2 * group] = HalfToFloat(pairs[0]);
    scales[2 * group + 1] = HalfToFloat(pairs[kTileRows]);
  }
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
    const auto top3 = Top3(a, b, c);
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
