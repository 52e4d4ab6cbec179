#ifndef FLEXQUANT_KERNELS_CUDA_NESTED_GEMV_H_
#define FLEXQUANT_KERNELS_CUDA_NESTED_GEMV_H_

// y = W x for 1..64 rows of activations, each row of the batch at its own precision, which the kernel reads from device
// memory: one captured graph serves every table of widths.
//
// Results. Activations become int8 a row and group (15 bits: two int8 columns), products are exact int32, and
//     y = sum over blocks of 64 columns of a.scale * w.scale * (dot(u, a) + (mid(b) - zero) * sum(a))
// is added in fp32 in an order that depends on the matrix's columns only. So a row's result is bit-identical whatever
// the batch, its neighbours' widths, the path (Hopper or portable) and the place of quantisation.
//
// Stream order. Functions only launch (at most two kernels; on the portable path 1 + ceil(columns / 16)): no
// allocation, no synchronisation; all can be captured. With dependent_launch a kernel may start while its predecessor
// runs; it then reads, before that one is complete, ONLY weights, `widths` and `valid_rows`: these must come from a
// memcpy, or from a kernel with at least one ordinary (not programmatic) launch after it. Everything else is read or
// written after its completion.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/nested_layout.h"

namespace flexquant::cuda {

inline constexpr int kMaxGemvRows = 64;

enum class GemvEpilogue : uint8_t {
  kStore,    // y[t, n] = result
  kAdd,      // y[t, n] += result
  kSiluMul,  // paired matrix: y[t, n] = silu(result of gate n) * result of up n, n < rows / 2
};

// For measurements: the launches in front of the decode kernel, or it alone.
enum class GemvLaunches : uint8_t { kAll, kQuantize, kProduct };

// For measurements; results do not depend on it.
struct GemvTuning {
  int fused_rows = -1;            // up to so many rows are quantised in the kernel itself, in every CTA; -1: default
  int parts = 0;                  // CTAs that share a tile along the columns, at least: 1, 2, 4, 8; 0: default
  int ctas_per_sm = 0;            // 1 or 2: shared memory is for so many; 0: default
  int launch_ctas = 0;            // of one launch on an SM: 1, or 2 where the plan allows it; 0: by the device
  int pace = 0;                   // records a warp has in flight before the previous grid is complete; 0: default
  int max_stages = 0;             // of a warp's ring; 0: as many as fit
  int chunk_columns = 0;          // of a CTA, from 17 columns on: 16 or 32; 0: default
  int sets = 0;                   // groups of CTAs that share tiles, at most; 0: as many as the device holds
  int shared_left = 0;            // bytes an SM has left for the launch behind beside one CTA, if there can be as many
  bool keep_low_columns = false;  // two columns a row, also where no row's width takes 15-bit activations
};

struct GemvParams {
  DeviceNestedMatrix weights;
  const float* x = nullptr;  // [rows, weights.cols] fp32, row stride ldx
  int64_t ldx = 0;
  int rows = 0;                         // 1..64, known to the host: the bucket
  const int32_t* valid_rows = nullptr;  // device; rows >= *valid_rows are not computed. null: all are valid
  const uint8_t* widths = nullptr;      // device [rows]: 3, 4, 5, 6 or 8
  uint32_t fine_widths = 0;             // bit b set: rows of width b get 15-bit activations
  const float* norm_weight = nullptr;   // [cols]: x is RMS-normalised first; null: not
  float norm_eps = 0;
  GemvEpilogue epilogue = GemvEpilogue::kStore;
  const float* bias = nullptr;  // [weights.rows] or null
  float* y = nullptr;           // [rows, weights.rows (kSiluMul: / 2)], row stride ldy; must not overlap x
  int64_t ldy = 0;
  void* workspace = nullptr;     // GemvWorkspaceBytes, 256-byte aligned; one for all matrices of a stream
  bool dependent_launch = true;  // Hopper path only
  bool portable = false;         // the path for sm_80 and up
  GemvTuning tuning;
  GemvLaunches launches = GemvLaunches::kAll;
};

// For `max_rows` rows. A workspace of the largest of several matrices serves them all. Its first
// kGemvCounterBytes bytes must be zero before the first use; kernels leave them zero.
size_t GemvWorkspaceBytes(const DeviceNestedMatrix& weights, int max_rows, bool fine);
inline constexpr size_t kGemvCounterBytes = size_t{64} << 10;

// Whether the current device can run the Hopper path.
bool HopperPathSupported();

// cudaErrorInvalidValue if shapes or group_size are not supported.
cudaError_t LaunchNestedGemv(const GemvParams& params, cudaStream_t stream);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_NESTED_GEMV_H_
