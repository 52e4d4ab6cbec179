#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/rope_kv.h"

namespace flexquant::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxHeadDim = 256;
constexpr int kPairs = kMaxHeadDim / 2 / 32;

__global__ void RopeTableKernel(const double* frequencies, int pairs, int positions, float2* table) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < static_cast<int64_t>(pairs) * positions) {
    double sine;
    double cosine;
    sincos(static_cast<double>(i / pairs) * frequencies[i % pairs], &sine, &cosine);
    table[i] = {static_cast<float>(cosine), static_cast<float>(sine)};
  }
}

// One warp a row and head.
__global__ void __launch_bounds__(32 * kWarps) RopeKvKernel(const RopeKvParams p) {
  LaunchDependents();
  const auto row = static_cast<int>(blockIdx.y);
  const int head = static_cast<int>(blockIdx.x * kWarps + threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int position = row < NumRows(p.num_rows, p.max_rows) ? p.positions[row] : -1;
  if (position < 0 || head >= p.num_heads + 2 * p.num_kv_heads) {
    WaitForPreviousGrid();
    return;
  }
  const int half = p.head_dim / 2;
  const bool is_q = head < p.num_heads;
  const bool is_value = head >= p.num_heads + p.num_kv_heads;
  const float2* angles = p.rope + static_cast<int64_t>(position) * half;
  Angles<kPairs> angle;
  if (!is_value) {
    angle = LoadAngles<kPairs>(angles, half, lane);
  }
  int64_t block = 0;
  if (!is_q) {
    const int sequence = p.sequence_of == nullptr ? row : p.sequence_of[row];
    block = p.block_tables[sequence * p.block_table_stride + position / p.block_tokens];
  }
  WaitForPreviousGrid();
  const int at = head * p.head_dim;
  const float* bias = p.bias == nullptr ? nullptr : p.bias + at;
  Head<kPairs> x = LoadHead<kPairs>(p.qkv + row * p.stride + at, bias, half, lane);
  if (!is_value) {
    const float* norm = is_q ? p.q_norm : p.k_norm;
    if (norm != nullptr) {
      Normalise(norm, p.norm_eps, half, lane, x);
    }
    Rotate(angle, x);
  }
  if (is_q) {
    StoreHead(p.qkv + row * p.stride + at, half, lane, x);
    return;
  }
  const int kv_head = head - p.num_heads - (is_value ? p.num_kv_heads : 0);
  uint16_t* cache = is_value ? p.v_cache : p.k_cache;
  StoreHead(reinterpret_cast<__half*>(cache) +
                ((block * p.num_kv_heads + kv_head) * p.block_tokens + position % p.block_tokens) * p.head_dim,
            half, lane, x);
}

}  // namespace

cudaError_t LaunchRopeTable(const double* frequencies, int pairs, int positions, float2* table, cudaStream_t stream) {
  const int64_t count = static_cast<int64_t>(pairs) * positions;
  const dim3 grid(static_cast<unsigned>((count + 255) / 256));
  return LaunchGrid(RopeTableKernel, grid, dim3(256), 0, stream, false, 1, frequencies, pairs, positions, table);
}

cudaError_t LaunchRopeKv(const RopeKvParams& params, cudaStream_t stream, bool programmatic) {
  if (params.head_dim % 2 != 0 || params.head_dim > kMaxHeadDim) {
    return cudaErrorInvalidValue;
  }
  const int heads = params.num_heads + 2 * params.num_kv_heads;
  const dim3 grid(static_cast<unsigned>((heads + kWarps - 1) / kWarps), static_cast<unsigned>(params.max_rows));
  return LaunchGrid(RopeKvKernel, grid, dim3(32 * kWarps), 0, stream, programmatic, 1, params);
}

}  // namespace flexquant::cuda
