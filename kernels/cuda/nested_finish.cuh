#ifndef FLEXQUANT_KERNELS_CUDA_NESTED_FINISH_CUH_
#define FLEXQUANT_KERNELS_CUDA_NESTED_FINISH_CUH_

// From the sums of a tile's slices to the output: tree sum, exchange between CTAs, epilogue. One warp a tile.

#include "kernels/cuda/nested_gemv_args.h"

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
  const float* values;  // [n][columns][16]
  int n;
};

template <bool kGlobal>
__device__ __forceinline__ float RowSum(const GemvArgs& args, const TileSums& sums, int token, int row) {
  const int stride = args.columns * 16;
  if (args.split == 0) {
    return TreeSum<kGlobal>(sums.values + token * 16 + row, sums.n, stride);
  }
  const float* at = sums.values + token * 32 + row;
  return __fadd_rn(TreeSum<kGlobal>(at, sums.n, stride), TreeSum<kGlobal>(at + 16, sums.n, stride));
}

__device__ __forceinline__ float WithBias(const GemvArgs& args, float value, int64_t row) {
  return args.bias == nullptr ? value : __fadd_rn(value, __ldg(args.bias + row));
}

// Where output `at` = 16 * token + row of a tile goes; null: nowhere.
__device__ __forceinline__ float* OutputAt(const GemvArgs& args, int64_t tile, int at) {
  int64_t row = tile * 16 + at % 16;
  int64_t end = args.rows;
  if (args.paired) {
    row = tile * 8 + at % 8;
    end = args.rows / 2;
  }
  if (row >= end) {
    return nullptr;
  }
  row += args.paired && at % 16 >= 8 ? end : 0;
  return args.y + (args.first_row + at / 16) * args.ldy + row;
}

// What a lane adds its first output to: loaded before the sums are complete.
__device__ __forceinline__ float LoadResidual(const GemvArgs& args, int64_t tile, int tokens, int lane) {
  if (args.epilogue != GemvEpilogue::kAdd || lane >= 16 * tokens) {
    return 0;
  }
  const float* out = OutputAt(args, tile, lane);
  return out == nullptr ? 0 : __ldcg(out);
}

// Writes the outputs of one tile for `tokens` rows of the batch.
template <bool kGlobal>
__device__ __forceinline__ void StoreTile(const GemvArgs& args, const TileSums& sums, int64_t tile, int tokens,
                                          int lane, float residual) {
  float* y = args.y + static_cast<int64_t>(args.first_row) * args.ldy;
  if (args.epilogue == GemvEpilogue::kSiluMul) {
    const int half_rows = args.rows / 2;
    for (int at = lane; at < 8 * tokens; at += 32) {
      const int token = at / 8;
      const int64_t row = tile * 8 + at % 8;
      if (row < half_rows) {
        const float gate = WithBias(args, RowSum<kGlobal>(args, sums, token, at % 8), row);
        const float up = WithBias(args, RowSum<kGlobal>(args, sums, token, at % 8 + 8), half_rows + row);
        y[token * args.ldy + row] = gate / (1.0F + expf(-gate)) * up;
      }
    }
    return;
  }
  for (int at = lane; at < 16 * tokens; at += 32) {
    float* out = OutputAt(args, tile, at);
    if (out == nullptr) {
      continue;
    }
    const int64_t row = out - y - at / 16 * args.ldy;
    const float value = WithBias(args, RowSum<kGlobal>(args, sums, at / 16, at % 16), row);
    *out = args.epilogue == GemvEpilogue::kAdd ? __fadd_rn(at == lane ? residual : __ldcg(out), value) : value;
  }
}

// `sums`: of this CTA's slices, in shared memory.
__device__ __forceinline__ void FinishTile(const GemvArgs& args, const TileSums& sums, int part, int64_t tile,
                                           int tokens, int lane, float residual) {
  if (args.parts == 1) {
    StoreTile<false>(args, sums, tile, tokens, lane, residual);
    return;
  }
  const int size = args.columns * 16;
  float* partials = args.partials + tile * args.parts * size;
  for (int at = lane; at < size; at += 32) {
    __stcg(partials + part * size + at, TreeSum<false>(sums.values + at, sums.n, size));
  }
  __threadfence();
  __syncwarp();
  unsigned before = 0;
  if (lane == 0) {
    before = atomicAdd(args.counters + tile, 1U);
  }
  before = __shfl_sync(0xFFFFFFFFU, before, 0);
  if (before + 1 == static_cast<unsigned>(args.parts)) {
    __threadfence();
    StoreTile<true>(args, {partials, args.parts}, tile, tokens, lane, residual);
    if (lane == 0) {
      args.counters[tile] = 0;
    }
  }
}

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_NESTED_FINISH_CUH_
