#include "kernels/cuda/nested_gemv.h"
#include "kernels/cuda/nested_launch.h"
#include "kernels/cuda/nested_widths.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/quantize.cuh"

namespace flexquant::cuda {
namespace {

struct QuantizeArgs {
  ActivationInput input;
  int8_t* values;
  float2* scales;
  int blocks;
  int chunk_columns;
  int rows;
  int split;
  bool keep_low_columns;
  uint32_t fine_widths;
  const uint8_t* widths;
  const int32_t* valid_rows;
};

// One CTA a row and pass.
__global__ void __launch_bounds__(kQuantizeThreads) QuantizeKernel(QuantizeArgs args) {
  __shared__ float squares[kQuantizeThreads / 32];
  LaunchDependents();
  const int row = static_cast<int>(blockIdx.y);
  const int pass = static_cast<int>(blockIdx.x);
  const int chunk = (row << args.split) / args.chunk_columns;
  const int chunk_rows = args.chunk_columns >> args.split;
  const int first_row = chunk * chunk_rows;
  const ChunkWidths widths =
      LoadChunkWidths(args.widths, args.valid_rows, first_row, min(chunk_rows, args.rows - first_row), args.split);
  const uint32_t fine_columns = FineColumns(widths.bits, args.fine_widths);
  const bool drops = DropsLowColumns(fine_columns, args.split, args.keep_low_columns);
  const int split = drops ? 0 : args.split;
  const int columns = drops ? chunk_rows : args.chunk_columns;
  const int column = (row - first_row) << split;
  const bool fine = split != 0 && (fine_columns >> column & 1U) != 0;
  const bool norm = args.input.norm_weight != nullptr;
  const float* x = args.input.x + row * args.input.ldx;
  const int64_t before = static_cast<int64_t>(chunk) * args.blocks;
  const ActivationOutput out{args.values + before * args.chunk_columns * kBlockCols,
                             args.scales + before * ScaleColumns(args.chunk_columns), columns, ScaleColumns(columns),
                             args.blocks};
  Quarter weight{};
  if (norm) {
    weight = LoadQuarter(args.input.norm_weight, pass, args.input);
  }
  WaitForPreviousGrid();
  Quarter quarter = LoadQuarter(x, pass, args.input);
  if (norm) {
    const float part = WarpSquares<false>(args.input, x, pass == 0 ? quarter : LoadQuarter(x, 0, args.input));
    if (threadIdx.x % 32 == 0) {
      squares[threadIdx.x / 32] = part;
    }
    __syncthreads();
    quarter = Normed(quarter, InverseNorm(args.input, squares), weight);
  }
  QuantizeQuarter(out, pass * kPassBlocks + static_cast<int>(threadIdx.x) / 4, column, quarter, args.input.group_blocks,
                  split != 0, fine);
}

}  // namespace

cudaError_t LaunchQuantize(const GemvParams& params, cudaStream_t stream) {
  if (!Valid(params)) {
    return cudaErrorInvalidValue;
  }
  const QuantizedView view = QuantizedIn(params);
  const QuantizeArgs args{
      InputOf(params),      view.values,   view.scales,      static_cast<int>(params.weights.blocks()),
      ChunkColumns(params), params.rows,   Split(params),    params.tuning.keep_low_columns,
      params.fine_widths,   params.widths, params.valid_rows};
  const dim3 grid(static_cast<unsigned>(CeilDiv(args.blocks, kPassBlocks)), static_cast<unsigned>(params.rows));
  LaunchConfig config(grid, kQuantizeThreads, 0, stream);
  if (params.dependent_launch && !params.portable) {
    config.SetDependent();
  }
  // As the decode kernel's: an SM changes its split of L1 and shared memory only when it is empty.
  const cudaError_t error =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(&QuantizeKernel),
                           cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  return error == cudaSuccess ? cudaLaunchKernelEx(&config.get(), &QuantizeKernel, args) : error;
}

}  // namespace flexquant::cuda
