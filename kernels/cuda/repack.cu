#include <algorithm>

#include "kernels/cuda/repack.h"
#include "kernels/cuda/unpack.cuh"

namespace flexquant::cuda {
namespace {

constexpr int kThreads = 256;

struct RepackArgs {
  StagedPlanes planes;
  uint8_t* data;
  int64_t rows;
  int64_t blocks;
  int64_t units;
  int64_t groups;
  int64_t tile_bytes;
  int64_t record_bytes;
  int group_blocks;
  bool paired;
};

// Where a row of the store lies: tile and row of the tile.
struct Place {
  int64_t tile;
  int row;
};

__device__ Place PlaceOf(const RepackArgs& args, int64_t row) {
  if (!args.paired) {
    return {row / kTileRows, static_cast<int>(row % kTileRows)};
  }
  const int64_t half = args.rows / 2;
  const int64_t in_half = row < half ? row : row - half;
  return {in_half / 8, static_cast<int>(in_half % 8) + (row < half ? 0 : 8)};
}

// The eight words of (tile of the range, unit, row).
__device__ void LoadUnit(const RepackArgs& args, int64_t tile, int64_t unit, int row, uint32_t (&words)[8]) {
  const int64_t at = tile * args.units + unit;
  const auto word = [row](const uint8_t* plane, int64_t index) {
    return reinterpret_cast<const uint32_t*>(plane + index * kPlaneWordBytes)[row];
  };
  words[0] = word(args.planes.base3, 3 * at);
  words[1] = word(args.planes.base3, 3 * at + 1);
  words[2] = word(args.planes.base3, 3 * at + 2);
  words[3] = word(args.planes.bit4, at);
  words[4] = word(args.planes.bit5, at);
  words[5] = word(args.planes.bit6, at);
  words[6] = word(args.planes.bits78, 2 * at);
  words[7] = word(args.planes.bits78, 2 * at + 1);
}

// One thread an element (tile, block, row, c): the 16 codes of columns 16 c .. 16 c + 15 of the block. A 32-bit word of
// the result takes codes of two rows, hence the atomics.
__global__ void RepackKernel(RepackArgs args) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int c = static_cast<int>(index % 4);
  const int row = static_cast<int>(index / 4 % kTileRows);
  const int64_t block = index / (4 * kTileRows) % args.blocks;
  const int64_t tile = index / (4 * kTileRows) / args.blocks;
  const int64_t store_row = (args.planes.first_tile + tile) * kTileRows + row;
  if (tile >= args.planes.num_tiles || store_row >= args.rows) {
    return;
  }
  const Place place = PlaceOf(args, store_row);
  const int64_t record = block / kRecordBlocks;
  const int in_record = static_cast<int>(block % kRecordBlocks);
  const int64_t left = args.blocks - record * kRecordBlocks;
  const int n = static_cast<int>(left < kRecordBlocks ? left : kRecordBlocks);
  const int n_groups = (n + args.group_blocks - 1) / args.group_blocks;
  uint8_t* base = args.data + place.tile * args.tile_bytes + record * args.record_bytes;
  if (c == 0 && in_record % args.group_blocks == 0) {
    const uint16_t* pair = args.planes.scales + (tile * args.groups + block / args.group_blocks) * 2 * kTileRows + row;
    const int at = ((place.row % 8) * n_groups + in_record / args.group_blocks) * 2 + place.row / 8;
    reinterpret_cast<uint32_t*>(base)[at] = pair[0] | static_cast<uint32_t>(pair[kTileRows]) << 16;
  }
  const int64_t unit = 2 * block + c / 2;
  if (unit >= args.units) {
    return;
  }
  uint32_t words[8];
  uint32_t codes[8];
  LoadUnit(args, tile, unit, row, words);
  Unpack<8>(words, codes);
  uint32_t placed[8];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint32_t code = c % 2 == 0 ? codes[j] : codes[4 + j];
    placed[j] = place.row < 8 ? code : 0;
    placed[4 + j] = place.row < 8 ? 0 : code;
  }
  Pack(placed, words);
  auto* out = reinterpret_cast<uint32_t*>(base + n_groups * 64) + (place.row % 8 * 4 + c) * n + in_record;
#pragma unroll
  for (int word = 0; word < 8; ++word) {
    atomicOr(out + word * n * (kBlockWordBytes / 4), words[word]);
  }
}

}  // namespace

cudaError_t LaunchRepackClear(const DeviceNestedMatrix& matrix, cudaStream_t stream) {
  return cudaMemsetAsync(const_cast<uint8_t*>(matrix.data), 0, static_cast<size_t>(matrix.bytes()), stream);
}

cudaError_t LaunchRepack(const StagedPlanes& planes, const DeviceNestedMatrix& matrix, cudaStream_t stream) {
  if (planes.num_tiles <= 0 || (matrix.group_size != 64 && matrix.group_size != 128)) {
    return planes.num_tiles == 0 ? cudaSuccess : cudaErrorInvalidValue;
  }
  const RepackArgs args{planes,
                        const_cast<uint8_t*>(matrix.data),
                        matrix.rows,
                        matrix.blocks(),
                        CeilDiv(matrix.cols, kUnitCols),
                        matrix.groups(),
                        matrix.tile_bytes(),
                        matrix.record_bytes(),
                        static_cast<int>(matrix.group_blocks()),
                        matrix.paired};
  const int64_t elements = planes.num_tiles * args.blocks * kTileRows * 4;
  RepackKernel<<<static_cast<unsigned>(CeilDiv(elements, kThreads)), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace flexquant::cuda
