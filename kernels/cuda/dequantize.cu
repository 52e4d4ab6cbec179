#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/nested_decode.cuh"
#include "kernels/cuda/ops_common.cuh"

namespace flexquant::cuda {
namespace {

constexpr int kWarps = 4;

// The lane's 16 codes codes[first .. first + 3] as halves to a row, or nowhere if `to` is null. first_col is the first
// column of the lane's pair (lane, lane ^ 1); the row has `cols` columns.
__device__ void StoreCodes(const uint32_t (&codes)[8], int first, const ScaleOffset& s, int64_t first_col, int64_t cols,
                           __half* to) {
  uint32_t words[8];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint32_t four = codes[first + j];
    words[2 * j] = PackHalves(DecodeCode<0>(four, s), DecodeCode<1>(four, s));
    words[2 * j + 1] = PackHalves(DecodeCode<2>(four, s), DecodeCode<3>(four, s));
  }
  // Neighbours swap 16-byte words, so that a store of theirs fills 32-byte sectors: the even lane's second word against
  // the odd lane's first.
  const bool odd = threadIdx.x % 2 != 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t other = __shfl_xor_sync(~0U, odd ? words[i] : words[4 + i], 1);
    words[i] = odd ? other : words[i];
    words[4 + i] = odd ? words[4 + i] : other;
  }
  if (to == nullptr) {
    return;
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int64_t col = first_col + 16 * j + (odd ? 8 : 0);
    if (cols >= col + 8) {
      *reinterpret_cast<uint4*>(to + col) = {words[4 * j], words[4 * j + 1], words[4 * j + 2], words[4 * j + 3]};
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (col + i < cols) {
          to[col + i] = __ushort_as_half(static_cast<unsigned short>(words[4 * j + i / 2] >> (16 * (i % 2))));
        }
      }
    }
  }
}

// First row of `out` that row r (and r + 8, `upper`) of a tile goes to, or -1 if the matrix has no such row.
__device__ int64_t OutputRow(const DequantizeParams& p, int64_t rows, int64_t tile, int r, int upper) {
  const int64_t local = tile - p.tile_begin;
  if (p.matrix.paired) {
    return 8 * tile + r < rows / 2 ? 8 * local + r + upper * p.paired_offset : -1;
  }
  return kTileRows * tile + r + 8 * upper < rows ? kTileRows * local + r + 8 * upper : -1;
}

// One warp a record: lane 4 r + c has columns 16 c .. 16 c + 15 of rows r and r + 8 of each of its blocks.
template <int kBits>
__global__ void __launch_bounds__(32 * kWarps) DequantizeKernel(const DequantizeParams p, const RecordGeometry g) {
  LaunchDependents();
  WaitForPreviousGrid();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t tile = p.tile_begin + blockIdx.y;
  const int index = static_cast<int>(blockIdx.x * kWarps + threadIdx.x / 32);
  if (index * kRecordBlocks >= g.blocks) {
    return;
  }
  const RecordView record = FindRecord(g, tile, index);
  constexpr int kWords = kBits < 8 ? kBits : 8;
  uint32_t all[kWords][kRecordBlocks] = {};
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    const auto* from = reinterpret_cast<const uint32_t*>(record.words + w * record.blocks * kBlockWordBytes);
    if (record.blocks == kRecordBlocks) {
      const uint4 word = reinterpret_cast<const uint4*>(from)[lane];
      all[w][0] = word.x;
      all[w][1] = word.y;
      all[w][2] = word.z;
      all[w][3] = word.w;
    } else {
#pragma unroll
      for (int i = 0; i < kRecordBlocks; ++i) {
        all[w][i] = i < record.blocks ? from[lane * record.blocks + i] : 0;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kRecordBlocks; ++i) {
    if (i >= record.blocks) {
      break;
    }
    const int64_t col = (static_cast<int64_t>(index) * kRecordBlocks + i) * kBlockCols + lane % 4 / 2 * 32;
    uint32_t words[kWords];
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      words[w] = all[w][i];
    }
    uint32_t codes[8];
    Unpack<kBits>(words, codes);
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      ScaleOffset s = LoadScale(record, lane / 4, i / g.group_blocks, upper, MidOf(kBits));
      s.scale *= p.factor;
      const int64_t row = OutputRow(p, g.rows, tile, lane / 4, upper);
      StoreCodes(codes, 4 * upper, s, col, g.cols,
                 row < 0 ? nullptr : reinterpret_cast<__half*>(p.out) + row * p.stride);
    }
  }
}

}  // namespace

cudaError_t LaunchDequantize(const DequantizeParams& p, cudaStream_t stream, bool programmatic) {
  if (p.tile_end <= p.tile_begin) {
    return cudaSuccess;
  }
  const auto launch = [&](void (*kernel)(DequantizeParams, RecordGeometry)) {
    const dim3 grid(static_cast<unsigned>(CeilDiv(p.matrix.records(), kWarps)),
                    static_cast<unsigned>(p.tile_end - p.tile_begin));
    return LaunchGrid(kernel, grid, dim3(32 * kWarps), 0, stream, programmatic, 1, p, GeometryOf(p.matrix));
  };
  switch (p.bits) {
    case 3:
      return launch(DequantizeKernel<3>);
    case 4:
      return launch(DequantizeKernel<4>);
    case 5:
      return launch(DequantizeKernel<5>);
    case 6:
      return launch(DequantizeKernel<6>);
    case 8:
      return launch(DequantizeKernel<8>);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace flexquant::cuda
