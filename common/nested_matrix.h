#ifndef FLEXQUANT_COMMON_NESTED_MATRIX_H_
#define FLEXQUANT_COMMON_NESTED_MATRIX_H_

// The multi-precision weight format: one stored copy of a matrix serves 3, 4, 5, 6 and 8 bits.
//
// Values. Row n, column k (group g = k / group_size) has an 8-bit code q in [0, 255]. At precision b the leading b bits
// are kept: u = q & ~(2^(8-b) - 1), and the weight is
//     w = scale[n, g] * (u + mid(b) - zero[n, g]),   mid(b) = (2^(8-b) - 1) / 2
// mid(b) is the middle of the dropped bits' range, so truncation has no bias. scale and zero are IEEE fp16; the same
// pair serves every precision.
//
// Layout. Rows are grouped in tiles of 16 (kTileRows), columns in units of 32 (kUnitCols); rows and columns are padded
// with weights that contribute nothing (padded columns are multiplied by zero activations; padded rows are not used).
// A unit of a tile is 8 registers of 64 bytes; register r holds columns 4r..4r+3 of the unit: byte 4 * row + c is the
// code of (row, column 4r + c). That is the operand order of AVX-512 VNNI's vpdpbusd. Planes, most significant bits
// first, each a separate tensor [tiles, units, words, 64 bytes]; f0..f7 are the eight registers' codes:
//   base3  3 words A, B, C a unit, code bits 7:5 of every register:
//          A = f0[7:5] at 7:5 | f1[7:5] at 4:2 | f6[7:6] at 1:0
//          B = f2[7:5] at 7:5 | f3[7:5] at 4:2 | f7[7:6] at 1:0
//          C = f4[7:5] at 7:5 | f5[7:5] at 4:2 | f6[5] at 1 | f7[5] at 0
//   bit4   1 word, code bit 4: bit r of each byte belongs to register r
//   bit5   1 word, code bit 3, likewise
//   bit6   1 word, code bit 2, likewise
//   bits78 2 words, code bits 1:0: word j holds registers 4j..4j+3, register 4j + i at bits 2i+1:2i
// Precision b reads base3 and then bit4, bit5, bit6, bits78 as far as b reaches.
// Scales: [tiles, groups, 32] fp16: 16 scales of the tile's rows, then their 16 zeros.

#include <cstdint>

namespace flexquant {

inline constexpr int64_t kTileRows = 16;
inline constexpr int64_t kUnitCols = 32;
inline constexpr int64_t kPlaneWordBytes = 64;

// Supported group sizes: 32, 64, 128 columns.
inline constexpr int64_t kDefaultGroupSize = 64;

inline constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

enum class Dtype : uint8_t { kF32, kF16, kBF16 };

// Non-owning view of one matrix [rows, cols]; y = W x. Pointers are 64-byte aligned.
struct NestedMatrix {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = kDefaultGroupSize;
  const uint8_t* base3 = nullptr;        // [tiles, units, 3, 64]
  const uint8_t* bit4 = nullptr;         // [tiles, units, 64]
  const uint8_t* bit5 = nullptr;         // [tiles, units, 64]
  const uint8_t* bit6 = nullptr;         // [tiles, units, 64]
  const uint8_t* bits78 = nullptr;       // [tiles, units, 2, 64]
  const uint16_t* scales = nullptr;      // [tiles, groups, 32] fp16: 16 scales, 16 zeros
  const void* reference = nullptr;       // [rows, cols] row-major, of reference_dtype; null if not stored
  Dtype reference_dtype = Dtype::kBF16;  // kF32 or kBF16

  int64_t tiles() const { return CeilDiv(rows, kTileRows); }
  int64_t units() const { return CeilDiv(cols, kUnitCols); }
  int64_t groups() const { return CeilDiv(cols, group_size); }
  uint64_t num_weights() const { return static_cast<uint64_t>(rows * cols); }
  // Bytes read at `bits` (scales included); 16 = the reference's bytes.
  uint64_t BytesRead(int bits) const {
    if (bits > 8) {
      return num_weights() * (reference_dtype == Dtype::kF32 ? 4U : 2U);
    }
    return static_cast<uint64_t>(tiles() * (units() * bits * kPlaneWordBytes + groups() * 64));
  }
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_NESTED_MATRIX_H_
