#ifndef FLEXQUANT_KERNELS_CUDA_NESTED_GEMV_ARGS_H_
#define FLEXQUANT_KERNELS_CUDA_NESTED_GEMV_ARGS_H_

// What the launcher hands to the decode kernel. Internal.
//
// Work. The records of a tile are cut into `slices` runs (a power of two up to 8, from the matrix's records alone), and
// a tile's result is the pairwise tree sum of its slices. A CTA's eight warps are slots x (slices / parts): warp w has
// slice part * (slices / parts) + w % (slices / parts) of every tile of slot w / (slices / parts). `parts` CTAs share
// tiles. On Hopper they are a cluster: the tiles of slot s are added up by the CTA of rank s % parts, into whose shared
// memory all warps of the slot write. Elsewhere each CTA adds a subtree, and the last one to finish adds the subtrees.
// A column of the matrix product is a row of the batch, or half of one (15-bit activations). Chunks of columns are
// blockIdx.y: CTAs of all chunks run at the same time, so that weights come from memory once.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/nested_gemv.h"
#include "kernels/cuda/quantize.cuh"

namespace flexquant::cuda {

inline constexpr int kGemvWarps = 8;
inline constexpr int kGemvWarpsShift = 3;
inline constexpr int kGemvThreads = kGemvWarps * 32;
inline constexpr int kMaxStages = 8;
inline constexpr int kNarrowColumns = 2;  // up to so many, all columns of an instruction are copies of these
inline constexpr int kTileColumns = 8;    // of an instruction
inline constexpr int kMaxChunkColumns = 32;
inline constexpr int kMaxFusedColumns = kTileColumns;
inline constexpr int kHopperShared = 224 << 10;   // of a CTA that has an SM to itself
inline constexpr int kPortableShared = 99 << 10;  // of a CTA, sm_80 and up
static_assert(kGemvThreads == kQuantizeThreads);

// Columns of activation scales, so that they can be read in pairs.
__host__ __device__ inline int ScaleColumns(int columns) { return (columns + 1) / 2 * 2; }

struct GemvArgs {
  const uint8_t* weights;
  int tiles;
  int records;       // of a tile
  int blocks;        // of a tile
  int group_blocks;  // 1 or 2
  int64_t tile_bytes;
  int record_bytes;  // of a full record
  int slices;        // powers of two, and their logarithms
  int parts;
  int slices_shift;
  int parts_shift;
  int cluster_shift;  // parts on the Hopper path, else one
  int tile_step;      // between tiles of a warp
  int full_rounds;    // tiles / tile_step
  int extra_tiles;    // tiles % tile_step

  int columns;        // of all chunks
  int first_chunk;    // of this launch
  int chunk_columns;  // all if there are at most 8; else 8, 16 or 32, and the last chunk is padded
  int scale_columns;  // ScaleColumns(chunk_columns)
  int split;          // 1: two columns a row, of which the decode kernel drops the second where it is zero
  uint32_t fine_widths;
  const uint8_t* widths;      // of the whole batch
  const int32_t* valid_rows;  // or null
  ActivationInput input;
  const int8_t* values;  // quantised beforehand, of all chunks; null: quantise here (a cluster: each CTA its part)
  const float2* scales;

  GemvEpilogue epilogue;
  bool paired;
  int rows;  // of the matrix
  const float* bias;
  float* y;
  int64_t ldy;
  float* partials;  // [tiles][parts][scale_columns * 16], as in shared memory
  unsigned* counters;

  // Dynamic shared memory: ring at 0 (bytes a warp), then these offsets.
  int ring_bytes;
  int values_offset;
  int scales_offset;
  int partials_offset;  // [tiles this CTA adds up][depth][slices of a tree][scale_columns * 16] fp32
  int scratch_offset;
  int depth;  // rounds whose sums can be in flight: 1, 2, 4
  int depth_shift;
  uint8_t stages[9];      // of the ring, by the launch's largest width
  uint8_t pace;           // records in flight before the previous grid is complete
  bool keep_low_columns;  // GemvTuning's; at the end, so that other arguments lie where they lay
};

// Barriers and small arrays at scratch_offset.
struct GemvScratch {
  uint64_t full[kGemvWarps][kMaxStages];  // ring stage has arrived
  uint64_t values[kGemvWarps];            // activations of a slice have arrived
  uint64_t ready[kGemvWarps * 4];         // [tiles this CTA adds up][1 << ready_shift]: sums of a round are written
  uint64_t free[kGemvWarps][4];           // [slot][depth]: and are read
  uint64_t squares_ready;                 // of all CTAs of the cluster
  float squares[kMaxFusedColumns][kGemvWarps];
  int bits[kMaxChunkColumns];  // widths of the columns
};

// Launches of the kernel's instances, by path; each in its own file. `chunk_columns` picks the instance.
cudaError_t LaunchHopperGemv(const GemvArgs& args, const cudaLaunchConfig_t& config);
// Clusters of `parts` CTAs that the current device holds at once, one CTA an SM; 0: unknown.
int HopperClusters(int parts);
cudaError_t LaunchPortableGemv(const GemvArgs& args, const cudaLaunchConfig_t& config);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_NESTED_GEMV_ARGS_H_
