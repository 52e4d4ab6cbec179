#ifndef FLEXQUANT_KERNELS_CUDA_ATTENTION_GENERIC_H_
#define FLEXQUANT_KERNELS_CUDA_ATTENTION_GENERIC_H_

// The slow path of attention_decode.h and attention_prefill.h: one warp a query token and head, fp32 arithmetic, any
// block size and any head_dim that is a multiple of 4, up to 256.

#include <cuda_runtime.h>

#include "kernels/cuda/attention_decode.h"
#include "kernels/cuda/attention_prefill.h"

namespace flexquant::cuda {

cudaError_t LaunchAttentionGeneric(const AttentionDecodeParams& params, cudaStream_t stream, bool programmatic);
cudaError_t LaunchAttentionGeneric(const AttentionPrefillParams& params, cudaStream_t stream, bool programmatic);

}  // namespace flexquant::cuda

#endif  // FLEXQUANT_KERNELS_CUDA_ATTENTION_GENERIC_H_
