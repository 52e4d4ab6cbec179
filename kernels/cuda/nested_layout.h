#ifndef FLEXQUANT_KERNELS_CUDA_NESTED_LAYOUT_H_
#define FLEXQUANT_KERNELS_CUDA_NESTED_LAYOUT_H_

// Where a nested matrix (values: common/nested_matrix.h) lies in device memory.
//
// A tile is 16 output rows. Columns are padded to blocks of 64 (kBlockCols); up to four blocks are one record. Records
// of a tile follow each other along the columns, tiles follow each other; only a tile's last record may have fewer than
// four blocks. A record of n blocks and g groups (g = n / (group_size / 64), rounded up) is
//     scales  g * 64 bytes: for r = 0..7, group 0..g-1, row r then row r + 8: half2 (scale, zero)
//     words   8 words of n * 128 bytes: base3 A, base3 B, base3 C, bit4, bit5, bit6, bits78 0, bits78 1
// so precision b reads the leading 64 g + 128 n b bytes of it: 256 + 512 b for a full record with groups of 64.
// In a word, lane l = 4 r + c (r = 0..7, c = 0..3) owns n 32-bit values, one a block, next to each other. They pack
// eight registers of four codes exactly as one row of a unit of common/nested_matrix.h does, but the registers are
//     f0..f3  row r,     columns 16 c + 4 j + byte of the block, j = 0..3
//     f4..f7  row r + 8, the same columns
// which is the A operand of mma.m16n8k32 over a permutation of a block's columns under which the B operand of lane
// (n, c) is the 16 consecutive activations 16 c .. 16 c + 15 of column n.
//
// A paired matrix holds two matrices of rows / 2 rows each (gate above up): row r of a tile is row 8 tile + r of the
// first, row r + 8 the same row of the second, so that silu(gate) * up needs one tile.

#include <cstdint>

#include "common/nested_matrix.h"

namespace flexquant::cuda {

inline constexpr int kBlockCols = 64;
inline constexpr int kRecordBlocks = 4;
inline constexpr int kBlockWordBytes = 128;  // bytes of one word of one block
inline constexpr int kRecordWords = 8;

// Non-owning view. group_size 64 or 128.
struct DeviceNestedMatrix {
  const uint8_t* data = nullptr;  // device, 128-byte aligned, bytes() bytes
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = kDefaultGroupSize;
  bool paired = false;  // rows is even: gate then up

  int64_t tiles() const { return paired ? CeilDiv(rows / 2, kTileRows / 2) : CeilDiv(rows, kTileRows); }
  int64_t blocks() const { return CeilDiv(cols, kBlockCols); }
  int64_t records() const { return CeilDiv(blocks(), kRecordBlocks); }
  int64_t group_blocks() const { return group_size / kBlockCols; }
  int64_t groups() const { return CeilDiv(cols, group_size); }
  int64_t tile_bytes() const { return groups() * 64 + blocks() * kRecordWords * kBlockWordBytes; }
  int64_t bytes() const { return tiles() * tile_bytes(); }
  // Of a full record.
  int64_t record_bytes() const {
    return kRecordBlocks / group_blocks() * 64 + kRecordBlocks * kRecordWords * kBlockWordBytes;
  }
  // Bytes a pass at `bits` reads.
  int64_t BytesRead(int bits) const { return tiles() * (groups() * 64 + blocks() * bits * kBlockWordBytes); }
};

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_NESTED_LAYOUT_H_
