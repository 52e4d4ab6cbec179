#ifndef FLEXQUANT_KERNELS_CUDA_NESTED_FINISH_CUH_
#define FLEXQUANT_KERNELS_CUDA_NESTED_FINISH_CUH_

// From the sums of a tile's slices to the output: tree sum, exchange between CTAs, epilogue.

#include "kernels/cuda/nested_gemv_args.h"
#include "kernels/cuda/nested_multiply.cuh"

namespace flexquant::cuda {

// Pairwise sum of n values (1, 2, 4 or 8) `stride` apart: the same for slices in one CTA as for CTAs' subtrees.
template <bool kGlobal>
__device__ __forceinline__ float TreeSum(const float* values, int n, int stride) {
  float v[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float* at = values + i * stride;
    v[i] = 0;
    if (i < n) {
      v[i] = kGlobal ? __ldcg(at) : *at;
    }
  }
#pragma unroll
  for (int step = 1; step < 8; step *= 2) {
#pragma unroll
    for (int i = 0; i < 8; i += 2 * step) {
      v[i] = step < n ? __fadd_rn(v[i], v[i + step]) : v[i];
    }
  }
  return v[0];
}

struct TileSums {
  const float* values;  // [n][stride], a tile's sums as SumAt says
  int n;
  int stride;
};

// A tile and the part of its outputs that a lane writes: 16 * token + row = first, first + step ...
struct TileShare {
  int64_t tile;
  int first_row;  // of the batch
  int tokens;
  int first;
  int step;
  int split;  // 1: two columns a token
};

// What a lane adds its first outputs to.
template <class Shape>
struct Residual {
  static constexpr int kCount = Shape::kNarrow ? 1 : Shape::kTiles == 1 ? 4 : Shape::kTiles / 2;
  float values[kCount];
};

template <bool kGlobal>
__device__ __forceinline__ float RowSum(const TileSums& sums, int split, int token, int row) {
  if (split == 0) {
    return TreeSum<kGlobal>(sums.values + SumAt(token, row), sums.n, sums.stride);
  }
  const float* at = sums.values + SumAt(2 * token, row);
  return __fadd_rn(TreeSum<kGlobal>(at, sums.n, sums.stride), TreeSum<kGlobal>(at + 1, sums.n, sums.stride));
}

__device__ __forceinline__ float WithBias(const GemvArgs& args, float value, int64_t row) {
  return args.bias == nullptr ? value : __fadd_rn(value, __ldg(args.bias + row));
}

// The matrix's row of row `at` % 16 of a tile; -1: none.
__device__ __forceinline__ int64_t MatrixRow(const GemvArgs& args, int64_t tile, int at) {
  int64_t row = tile * 16 + at % 16;
  int64_t end = args.rows;
  if (args.paired) {
    row = tile * 8 + at % 8;
    end = args.rows / 2;
  }
  return row >= end ? -1 : row + (args.paired && at % 16 >= 8 ? end : 0);
}

__device__ __forceinline__ float* OutputAt(const GemvArgs& args, const TileShare& share, int at, int64_t row) {
  return args.y + (share.first_row + at / 16) * args.ldy + row;
}

// Before the sums are complete.
template <class Shape>
__device__ __forceinline__ void LoadResidual(const GemvArgs& args, const TileShare& share, Residual<Shape>& residual) {
#pragma unroll
  for (int i = 0; i < Residual<Shape>::kCount; ++i) {
    const int at = share.first + i * share.step;
    residual.values[i] = 0;
    if (args.epilogue == GemvEpilogue::kAdd && at < 16 * share.tokens) {
      const int64_t row = MatrixRow(args, share.tile, at);
      residual.values[i] = row < 0 ? 0 : __ldcg(OutputAt(args, share, at, row));
    }
  }
}

template <bool kGlobal>
__device__ __forceinline__ void StoreGated(const GemvArgs& args, const TileSums& sums, const TileShare& share) {
  const int half_rows = args.rows / 2;
  for (int at = share.first; at < 8 * share.tokens; at += share.step) {
    const int token = at / 8;
    const int64_t row = share.tile * 8 + at % 8;
    if (row < half_rows) {
      const float gate = WithBias(args, RowSum<kGlobal>(sums, share.split, token, at % 8), row);
      const float up = WithBias(args, RowSum<kGlobal>(sums, share.split, token, at % 8 + 8), half_rows + row);
      args.y[(share.first_row + token) * args.ldy + row] = gate / (1.0F + expf(-gate)) * up;
    }
  }
}

// Writes this lane's outputs of a tile.
template <class Shape, bool kGlobal>
__device__ __forceinline__ void StoreTile(const GemvArgs& args, const TileSums& sums, const TileShare& share,
                                          const Residual<Shape>& residual) {
  if (args.epilogue == GemvEpilogue::kSiluMul) {
    StoreGated<kGlobal>(args, sums, share);
    return;
  }
  constexpr int kCount = Residual<Shape>::kCount;
  for (int begin = share.first; begin < 16 * share.tokens; begin += kCount * share.step) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int at = begin + i * share.step;
      const int64_t row = MatrixRow(args, share.tile, at);
      if (at >= 16 * share.tokens || row < 0) {
        continue;
      }
      float* out = OutputAt(args, share, at, row);
      const float value = WithBias(args, RowSum<kGlobal>(sums, share.split, at / 16, at % 16), row);
      if (args.epilogue == GemvEpilogue::kAdd) {
        *out = __fadd_rn(begin == share.first ? residual.values[i] : __ldcg(out), value);
      } else {
        *out = value;
      }
    }
  }
}

// Portable path, several parts, one warp a tile. `sums`: of this CTA's slices, in shared memory.
template <class Shape>
__device__ __forceinline__ void ExchangeTile(const GemvArgs& args, const TileSums& sums, int part,
                                             const TileShare& share, const Residual<Shape>& residual) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int parts = 1 << args.parts_shift;
  float* partials = args.partials + share.tile * parts * sums.stride;
  for (int at = lane; at < sums.stride; at += 32) {
    __stcg(partials + part * sums.stride + at, TreeSum<false>(sums.values + at, sums.n, sums.stride));
  }
  __threadfence();
  __syncwarp();
  unsigned before = 0;
  if (lane == 0) {
    before = atomicAdd(args.counters + share.tile, 1U);
  }
  before = __shfl_sync(0xFFFFFFFFU, before, 0);
  if (before + 1 == static_cast<unsigned>(parts)) {
    __threadfence();
    StoreTile<Shape, true>(args, {partials, parts, sums.stride}, share, residual);
    if (lane == 0) {
      args.counters[share.tile] = 0;
    }
  }
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_NESTED_FINISH_CUH_
