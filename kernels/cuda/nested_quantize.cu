#include "kernels/cuda/nested_gemv.h"
#include "kernels/cuda/nested_launch.h"
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
  int split;
  uint32_t fine_widths;
  const uint8_t* widths;
};

// One CTA a row and pass.
__global__ void __launch_bounds__(kQuantizeThreads) QuantizeKernel(QuantizeArgs args) {
  __shared__ float squares[kQuantizeThreads / 32];
  LaunchDependents();
  const int row = static_cast<int>(blockIdx.y);
  const int pass = static_cast<int>(blockIdx.x);
  const int column = row << args.split;
  const int chunk = column / args.chunk_columns;
  const bool fine = args.split != 0 && (args.fine_widths >> args.widths[row] & 1U) != 0;
  const bool norm = args.input.norm_weight != nullptr;
  const float* x = args.input.x + row * args.input.ldx;
  const int64_t before = static_cast<int64_t>(chunk) * args.blocks;
  const int scale_columns = (args.chunk_columns + 1) / 2 * 2;
  const ActivationOutput out{args.values + before * args.chunk_columns * kBlockCols,
                             args.scales + before * scale_columns, args.chunk_columns, scale_columns, args.blocks};
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
  QuantizeQuarter(out, pass * kPassBlocks + static_cast<int>(threadIdx.x) / 4, column - chunk * args.chunk_columns,
                  quarter, args.input.group_blocks, args.split != 0, fine);
}

}  // namespace

cudaError_t LaunchQuantize(const GemvParams& params, cudaStream_t stream) {
  if (!Valid(params)) {
    return cudaErrorInvalidValue;
  }
  const QuantizedView view = QuantizedIn(params);
  const QuantizeArgs args{
      InputOf(params),      view.values,   view.scales,        static_cast<int>(params.weights.blocks()),
      ChunkColumns(params), Split(params), params.fine_widths, params.widths};
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
