#include "kernels/cuda/embedding.h"
#include "kernels/cuda/nested_decode.cuh"
#include "kernels/cuda/ops_common.cuh"

namespace flexquant::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kLaneCols = 16;  // columns of a block that a lane of a record owns

struct Tables {
  RecordGeometry records;
  NestedMatrix planes;
  int64_t units;  // of the planes
  int64_t groups;
  int64_t rows;
  int64_t cols;
};

// Columns [col, col + 16) of `row`.
__device__ void FromRecords(const RecordGeometry& matrix, int64_t row, int64_t col, float* out) {
  const int64_t half = matrix.rows / 2;
  const int64_t in_half = row < half ? row : row - half;
  const int64_t tile = matrix.paired ? in_half / 8 : row / kTileRows;
  const int r = static_cast<int>(matrix.paired ? in_half % 8 : row % 8);
  const int upper = static_cast<int>(matrix.paired ? (row >= half) : row / 8 % 2);
  const int block = static_cast<int>(col / kBlockCols);
  const RecordView record = FindRecord(matrix, tile, block / kRecordBlocks);
  const int at = block % kRecordBlocks;
  const int lane = 4 * r + static_cast<int>(col % kBlockCols / kLaneCols);
  uint32_t words[kRecordWords];
#pragma unroll
  for (int w = 0; w < kRecordWords; ++w) {
    words[w] = reinterpret_cast<const uint32_t*>(record.words +
                                                 w * record.blocks * kBlockWordBytes)[lane * record.blocks + at];
  }
  uint32_t codes[8];
  Unpack<8>(words, codes);
  const ScaleOffset s = LoadScale(record, r, at / matrix.group_blocks, upper, MidOf(8));
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint32_t four = upper == 0 ? codes[j] : codes[4 + j];
    const float values[4] = {DecodeCode<0>(four, s), DecodeCode<1>(four, s), DecodeCode<2>(four, s),
                             DecodeCode<3>(four, s)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (col + 4 * j + i < matrix.cols) {
        out[4 * j + i] = values[i];
      }
    }
  }
}

// Columns [col, col + 16) of `row`: half a row of a unit.
__device__ void FromPlanes(const Tables& tables, int64_t row, int64_t col, float* out) {
  const NestedMatrix& matrix = tables.planes;
  const int64_t tile = row / kTileRows;
  const int64_t lane = row % kTileRows;
  const int64_t unit = tile * tables.units + col / kUnitCols;
  const auto word = [lane](const uint8_t* plane, int64_t index) {
    return reinterpret_cast<const uint32_t*>(plane + index * kPlaneWordBytes)[lane];
  };
  const uint32_t words[8] = {word(matrix.base3, 3 * unit),     word(matrix.base3, 3 * unit + 1),
                             word(matrix.base3, 3 * unit + 2), word(matrix.bit4, unit),
                             word(matrix.bit5, unit),          word(matrix.bit6, unit),
                             word(matrix.bits78, 2 * unit),    word(matrix.bits78, 2 * unit + 1)};
  uint32_t codes[8];
  Unpack<8>(words, codes);
  const bool upper = col % kUnitCols != 0;
  // 16 columns never straddle a group.
  const auto* scales = reinterpret_cast<const __half*>(matrix.scales) +
                       (tile * tables.groups + col / matrix.group_size) * 2 * kTileRows + lane;
  const ScaleOffset s = {__half2float(scales[0]), MidOf(8) - __half2float(scales[kTileRows])};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint32_t four = upper ? codes[4 + j] : codes[j];
    const float values[4] = {DecodeCode<0>(four, s), DecodeCode<1>(four, s), DecodeCode<2>(four, s),
                             DecodeCode<3>(four, s)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (col + 4 * j + i < matrix.cols) {
        out[4 * j + i] = values[i];
      }
    }
  }
}

__device__ void FromReference(const NestedMatrix& matrix, int64_t row, int64_t col, float* out) {
  const int64_t end = matrix.cols - col < kLaneCols ? matrix.cols - col : kLaneCols;
  for (int64_t i = 0; i < end; ++i) {
    const int64_t at = row * matrix.cols + col + i;
    if (matrix.reference_dtype == Dtype::kF32) {
      out[i] = static_cast<const float*>(matrix.reference)[at];
    } else {
      out[i] = __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(matrix.reference)[at]) << 16);
    }
  }
}

__global__ void __launch_bounds__(kThreads) EmbeddingKernel(const EmbeddingParams p, const Tables tables) {
  LaunchDependents();
  WaitForPreviousGrid();
  const auto row = static_cast<int>(blockIdx.y);
  const int64_t col = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kLaneCols;
  if (row >= NumRows(p.num_rows, p.max_rows) || col >= tables.cols) {
    return;
  }
  const int64_t token = p.tokens[row];
  float* out = p.hidden + row * tables.cols + col;
  if (token >= tables.rows) {
    for (int64_t i = 0; i < kLaneCols && col + i < tables.cols; ++i) {
      out[i] = 0;
    }
    return;
  }
  if (p.bits != nullptr && p.bits[row] == 16) {
    FromReference(tables.planes, token, col, out);
  } else if (tables.records.data != nullptr) {
    FromRecords(tables.records, token, col, out);
  } else {
    FromPlanes(tables, token, col, out);
  }
}

}  // namespace

cudaError_t LaunchEmbedding(const EmbeddingParams& params, cudaStream_t stream, bool programmatic) {
  const int64_t cols = params.records.data != nullptr ? params.records.cols : params.planes.cols;
  const int64_t rows = params.records.data != nullptr ? params.records.rows : params.planes.rows;
  const Tables tables = {GeometryOf(params.records), params.planes, params.planes.units(),
                         params.planes.groups(),     rows,          cols};
  const dim3 grid(static_cast<unsigned>(CeilDiv(cols, kThreads * kLaneCols)), static_cast<unsigned>(params.max_rows));
  return LaunchGrid(EmbeddingKernel, grid, dim3(kThreads), 0, stream, programmatic, 1, params, tables);
}

}  // namespace flexquant::cuda
