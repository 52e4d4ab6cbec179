#ifndef FLEXQUANT_KERNELS_CUDA_NESTED_MULTIPLY_CUH_
#define FLEXQUANT_KERNELS_CUDA_NESTED_MULTIPLY_CUH_

// One warp, one record (16 rows, up to four blocks of 64 columns) times the activations of a launch's columns.
//
// A lane is 4 r + c: it unpacks rows r and r + 8, and the products give it columns 2 c and 2 c + 1 of every eight.
// There are four fp32 accumulators an output, one for each block of a record; in the end they are added as
// (0 + 1) + (2 + 3). Up to two columns (narrow), every column of the product holds the same two, so lane c has the sums
// of all four blocks and accumulates block c alone; otherwise a lane has the four accumulators of its outputs.

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/nested_gemv_args.h"
#include "kernels/cuda/nested_layout.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/unpack.cuh"

namespace flexquant::cuda {

// kPerLane: 1 if there is only one column, else 2. kTiles: tiles of eight columns.
template <bool narrow, int tiles, int per_lane>
struct GemvShape {
  static constexpr bool kNarrow = narrow;
  static constexpr int kTiles = tiles;
  static constexpr int kPerLane = per_lane;
  static constexpr int kClasses = narrow ? 1 : kRecordBlocks;
  // For half as many columns. (Up to eight, two columns could be narrow ones: such a kernel spills registers.)
  using Dropped = GemvShape<narrow, (tiles + 1) / 2, narrow ? 1 : 2>;
};

// kBits of a launch whose columns have different widths.
inline constexpr int kMixed = 0;

// 2^23 + 2^22 as fp32: an int32 accumulator that starts with its bits reads, as fp32, as that plus the sum, exactly,
// while |sum| < 2^22. The sum of a block is at most 64 * 255 * 127 < 2^21.
inline constexpr int32_t kMagicBits = 0x4B400000;
inline constexpr float kMagic = 12582912.0F;

__host__ __device__ constexpr float Middle(int bits) { return static_cast<float>((1 << (8 - bits)) - 1) * 0.5F; }

template <class Shape>
struct LaneState {
  int lane;
  int group_shift;                 // group of a block = block >> group_shift
  int max_bits;                    // of the launch's columns
  int value_step;                  // bytes between blocks, up to eight columns
  int scale_step;                  // float2 between blocks, up to eight columns
  int value_offset;                // bytes: this lane's 16 activations in a block, of the first tile
  int scale_offset;                // float2: this lane's first column, of the first tile
  int width[Shape::kTiles];        // kMixed: of the column whose activations this lane holds
  float middle[Shape::kTiles][2];  // kMixed: of the columns whose sums this lane has
  float sums[Shape::kClasses][Shape::kTiles][2][Shape::kPerLane];  // [..][row r, r + 8][column]

  // Known to the compiler for the wider shapes, whose chunks are padded: so no tile has registers of its own.
  __device__ __forceinline__ int value_stride() const {
    return Shape::kTiles == 1 ? value_step : Shape::kTiles * kTileColumns * kBlockCols;
  }
  __device__ __forceinline__ int scale_stride() const {
    return Shape::kTiles == 1 ? scale_step : Shape::kTiles * kTileColumns;
  }
  __device__ __forceinline__ int value_at(int tile) const { return value_offset + tile * kTileColumns * kBlockCols; }
  __device__ __forceinline__ int scale_at(int tile) const { return scale_offset + tile * kTileColumns; }
};

// Starts the sums at the magic number.
template <class Shape>
__device__ __forceinline__ void MultiplyTiles(const uint32_t (&f)[8], const uint4 (&b)[Shape::kTiles],
                                              int32_t (&dots)[Shape::kTiles][4]) {
#pragma unroll
  for (int t = 0; t < Shape::kTiles; ++t) {
    MmaFrom(kMagicBits, dots[t], f[0], f[4], f[1], f[5], b[t].x, b[t].y);
    Mma(dots[t], f[2], f[6], f[3], f[7], b[t].z, b[t].w);
  }
}

// As above, for the columns of at least `bits`; clears the activations of the others, whose planes these were the last
// of. The halves of a block are sums of their own: a chain of products half as long.
template <class Shape>
__device__ __forceinline__ void MultiplyWanted(const LaneState<Shape>& lane, int bits, const uint32_t (&f)[8],
                                               uint4 (&b)[Shape::kTiles], int32_t (&first)[Shape::kTiles][4],
                                               int32_t (&second)[Shape::kTiles][4]) {
#pragma unroll
  for (int t = 0; t < Shape::kTiles; ++t) {
    b[t] = lane.width[t] >= bits ? b[t] : make_uint4(0, 0, 0, 0);
    Mma(first[t], f[0], f[4], f[1], f[5], b[t].x, b[t].y);
    Mma(second[t], f[2], f[6], f[3], f[7], b[t].z, b[t].w);
  }
}

// Sums of one block whose columns have different widths, plane by plane.
template <class Shape>
__device__ __forceinline__ void MixedDots(const LaneState<Shape>& lane, const uint32_t (&words)[8],
                                          uint4 (&b)[Shape::kTiles], int32_t (&dots)[Shape::kTiles][4]) {
  uint32_t f[8];
  int32_t second[Shape::kTiles][4];
  UnpackBase(words[0], words[1], words[2], f);
#pragma unroll
  for (int t = 0; t < Shape::kTiles; ++t) {
    MmaFrom(kMagicBits, dots[t], f[0], f[4], f[1], f[5], b[t].x, b[t].y);
    MmaFrom(0, second[t], f[2], f[6], f[3], f[7], b[t].z, b[t].w);
  }
  // More than three bits: the widths differ.
  UnpackBit<4, false>(words[3], f);
  MultiplyWanted(lane, 4, f, b, dots, second);
  if (lane.max_bits >= 5) {
    UnpackBit<3, false>(words[4], f);
    MultiplyWanted(lane, 5, f, b, dots, second);
  }
  if (lane.max_bits >= 6) {
    UnpackBit<2, false>(words[5], f);
    MultiplyWanted(lane, 6, f, b, dots, second);
  }
  if (lane.max_bits >= 8) {
    UnpackLow<false>(words[6], words[7], f);
    MultiplyWanted(lane, 8, f, b, dots, second);
  }
#pragma unroll
  for (int t = 0; t < Shape::kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      dots[t][i] += second[t][i];
    }
  }
}

// Sums of one block from its words: the magic number plus the exact integer.
template <class Shape, int kBits>
__device__ __forceinline__ void BlockDots(const LaneState<Shape>& lane, const uint32_t (&words)[8],
                                          uint4 (&b)[Shape::kTiles], int32_t (&dots)[Shape::kTiles][4]) {
  if constexpr (kBits == kMixed) {
    MixedDots(lane, words, b, dots);
  } else {
    uint32_t f[8];
    Unpack<kBits>(words, f);
    MultiplyTiles<Shape>(f, b, dots);
  }
}

// Adds one block's term to one output's accumulator. `pair`: half2 (scale, zero) of the row; `activation`: (scale,
// sum).
__device__ __forceinline__ void AddTerm(float& sum, int32_t dot, const float2& pair, float middle,
                                        const float2& activation) {
  const float exact = __fsub_rn(__int_as_float(dot), kMagic);
  const float corrected = __fmaf_rn(__fsub_rn(middle, pair.y), activation.y, exact);
  sum = __fmaf_rn(__fmul_rn(activation.x, pair.x), corrected, sum);
}

__device__ __forceinline__ float2 HalfPair(uint32_t bits) {
  return __half22float2(*reinterpret_cast<const __half2*>(&bits));
}

template <class Shape, int kBits>
__device__ __forceinline__ float MiddleOf(const LaneState<Shape>& lane, int tile, int column) {
  if constexpr (kBits != kMixed) {
    return Middle(kBits);
  } else {
    return lane.middle[tile][column];
  }
}

// The words of all blocks of a record. kFull: four blocks.
template <int kBits, bool kFull>
__device__ __forceinline__ void LoadWords(const uint8_t* words, int lane, int blocks, int max_bits,
                                          uint32_t (&loaded)[kRecordBlocks][8]) {
#pragma unroll
  for (int word = 0; word < 8; ++word) {
    if (kBits != kMixed ? word >= kBits : word >= max_bits) {
      continue;
    }
    if constexpr (kFull) {
      const uint4 four = reinterpret_cast<const uint4*>(words)[word * 32 + lane];
      loaded[0][word] = four.x;
      loaded[1][word] = four.y;
      loaded[2][word] = four.z;
      loaded[3][word] = four.w;
    } else {
#pragma unroll
      for (int block = 0; block < kRecordBlocks - 1; ++block) {
        if (block < blocks) {
          loaded[block][word] = reinterpret_cast<const uint32_t*>(words)[(word * 32 + lane) * blocks + block];
        }
      }
    }
  }
}

// `values` and `scales`: of the record's first block.
template <class Shape, int kBits, bool kFull>
__device__ __forceinline__ void MultiplyRecord(LaneState<Shape>& lane, const uint8_t* record, int blocks,
                                               const int8_t* values, const float2* scales) {
  const int groups =
      kFull ? kRecordBlocks >> lane.group_shift : (blocks + (1 << lane.group_shift) - 1) >> lane.group_shift;
  const auto* pairs = reinterpret_cast<const uint2*>(record) + (lane.lane / 4) * groups;
  uint32_t words[kRecordBlocks][8] = {};
  LoadWords<kBits, kFull>(record + groups * 64, lane.lane, blocks, lane.max_bits, words);
  const int c = lane.lane % 4;
  [[maybe_unused]] int32_t picked[4];
#pragma unroll
  for (int block = 0; block < (kFull ? kRecordBlocks : kRecordBlocks - 1); ++block) {
    if (!kFull && block >= blocks) {
      break;
    }
    uint4 b[Shape::kTiles];
#pragma unroll
    for (int t = 0; t < Shape::kTiles; ++t) {
      b[t] = *reinterpret_cast<const uint4*>(values + block * lane.value_stride() + lane.value_at(t));
    }
    int32_t dots[Shape::kTiles][4];
    BlockDots<Shape, kBits>(lane, words[block], b, dots);
    if constexpr (Shape::kNarrow) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        picked[i] = block == 0 || c == block ? dots[0][i] : picked[i];
      }
    } else {
      const uint2 pair = pairs[block >> lane.group_shift];
      const float2 row_pair[2] = {HalfPair(pair.x), HalfPair(pair.y)};
#pragma unroll
      for (int t = 0; t < Shape::kTiles; ++t) {
        const float4 two = *reinterpret_cast<const float4*>(scales + block * lane.scale_stride() + lane.scale_at(t));
        const float2 activation[2] = {{two.x, two.y}, {two.z, two.w}};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          AddTerm(lane.sums[block][t][i / 2][i % 2], dots[t][i], row_pair[i / 2],
                  MiddleOf<Shape, kBits>(lane, t, i % 2), activation[i % 2]);
        }
      }
    }
  }
  if constexpr (Shape::kNarrow) {
    if (kFull || c < blocks) {
      const uint2 pair = pairs[c >> lane.group_shift];
#pragma unroll
      for (int column = 0; column < Shape::kPerLane; ++column) {
        const float2 activation = scales[c * lane.scale_stride() + column];
        AddTerm(lane.sums[0][0][0][column], picked[column], HalfPair(pair.x), MiddleOf<Shape, kBits>(lane, 0, column),
                activation);
        AddTerm(lane.sums[0][0][1][column], picked[2 + column], HalfPair(pair.y),
                MiddleOf<Shape, kBits>(lane, 0, column), activation);
      }
    }
  }
}

// Where a tile's sums hold an output: pairs of columns, in the order in which a lane has its four.
__device__ __forceinline__ int SumAt(int column, int row) {
  return column / 2 * 32 + row % 8 * 4 + row / 8 * 2 + column % 2;
}

// Adds the four accumulators of every output and stores the outputs of all columns: store(i, values 4 i .. 4 i + 3).
template <class Shape, class Store>
__device__ __forceinline__ void StoreSums(const LaneState<Shape>& lane, int columns, const Store& store) {
  const int r = lane.lane / 4;
  const int c = lane.lane % 4;
#pragma unroll
  for (int t = 0; t < Shape::kTiles; ++t) {
    float v[2][2] = {};
#pragma unroll
    for (int i = 0; i < 2 * Shape::kPerLane; ++i) {
      const int half = i / Shape::kPerLane;
      const int in_lane = i % Shape::kPerLane;
      float total = 0;
      if constexpr (Shape::kNarrow) {
        total = lane.sums[0][0][half][in_lane];
        total = __fadd_rn(total, __shfl_xor_sync(0xFFFFFFFFU, total, 1));
        total = __fadd_rn(total, __shfl_xor_sync(0xFFFFFFFFU, total, 2));
      } else {
        total = __fadd_rn(__fadd_rn(lane.sums[0][t][half][in_lane], lane.sums[1][t][half][in_lane]),
                          __fadd_rn(lane.sums[2][t][half][in_lane], lane.sums[3][t][half][in_lane]));
      }
      v[half][in_lane] = total;
    }
    const int pair = 4 * t + c;
    if (2 * pair < columns && (!Shape::kNarrow || c == 0)) {
      store(pair * 8 + r, make_float4(v[0][0], v[0][1], v[1][0], v[1][1]));
    }
  }
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_NESTED_MULTIPLY_CUH_
