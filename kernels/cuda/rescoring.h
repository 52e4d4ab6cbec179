#ifndef FLEXQUANT_KERNELS_CUDA_RESCORING_H_
#define FLEXQUANT_KERNELS_CUDA_RESCORING_H_

// Rescoring (common/rescoring.h): the likeliest tokens of rows whose head has fewer than 8 bits are scored again at 8
// bits, behind the head's GEMV.
//
// Two launches. The first chooses tokens from the whole vocabulary's logits, the second writes their new logits; ranks
// that share a vocabulary wait for each other in between, so that all choose from the same logits. Both only launch: no
// allocation, no synchronisation; both can be captured, and read rows and widths from device memory. A row's result
// does not depend on the others of the batch. Rows of 8 or more bits, and those past num_rows, are left alone.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "common/rescoring.h"
#include "kernels/cuda/nested_layout.h"

namespace flexquant::cuda {

// Columns of a head at most: fp32 activations of a row are in the shared memory that every device of compute capability
// 8.0 and later has.
inline constexpr int64_t kMaxRescoringCols = 24576;

// All pointers are device memory; that of logits may be a peer's.
struct RescoringParams {
  DeviceNestedMatrix head;             // rows: of the vocabulary's tokens from vocab_begin on; not paired
  int64_t vocab_begin = 0;             // 0 unless ranks share the vocabulary
  int vocab = 0;                       // of the whole model
  int limit = 0;                       // tokens of a row at most
  const float* x = nullptr;            // fp32 [max_rows, head.cols], row stride ldx
  int64_t ldx = 0;                     // floats
  const float* norm_weight = nullptr;  // fp32 [head.cols]: x is RMS-normalised first; null: not
  float norm_eps = 0;
  const uint8_t* widths = nullptr;    // [max_rows] of the head, in bits
  float* logits = nullptr;            // fp32 [max_rows, stride], of the whole vocabulary
  int64_t stride = 0;                 // floats
  const int32_t* num_rows = nullptr;  // [1], or null for max_rows
  int max_rows = 0;
  bool portable = false;      // one block a row, as below compute capability 9.0, instead of a cluster
  void* workspace = nullptr;  // RescoringWorkspaceBytes; the second launch reads what the first one left there
};

// For up to `max_rows` rows and `limit` tokens of each.
size_t RescoringWorkspaceBytes(int max_rows, int limit);

// Chooses. x and head are not read.
cudaError_t LaunchRescoringChoice(const RescoringParams& params, cudaStream_t stream, bool programmatic = false);
// Scores. The same parameters; of the tokens chosen those that are rows of `head`. cudaErrorInvalidValue for a head
// that is paired, too wide or of other groups than 64 and 128 columns.
cudaError_t LaunchRescoring(const RescoringParams& params, cudaStream_t stream, bool programmatic = false);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_RESCORING_H_
