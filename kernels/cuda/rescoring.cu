#include "kernels/cuda/nested_decode.cuh"
#include "kernels/cuda/ops_common.cuh"
#include "kernels/cuda/rescoring.h"
#include "kernels/cuda/sampling_cluster.cuh"

namespace flexquant::cuda {
namespace {

using sampling::Cluster;
using sampling::ClusterSync;
using sampling::Remote;
using sampling::Shared;

constexpr int kChoiceThreads = sampling::kThreads;
static_assert(kRescoringSteps <= sampling::kBins && kChoiceThreads == sampling::kBins);

constexpr int kScoreWarps = 4;
constexpr int kScoreThreads = 32 * kScoreWarps;
// Blocks of all rows together, and of one row: each normalises its row once more.
constexpr int kScoreBlocks = 1024;
constexpr int kLeastBlocksOfRow = 16;
constexpr int kMostBlocksOfRow = 128;

// Of the workspace: [max_rows] counts, then [max_rows, limit] tokens.
__device__ uint32_t* Counts(const RescoringParams& p) { return static_cast<uint32_t*>(p.workspace); }
__device__ uint32_t* Tokens(const RescoringParams& p, int row) {
  return Counts(p) + p.max_rows + static_cast<int64_t>(row) * p.limit;
}

// Steps below the largest logit, to be truncated; a comparison with it is false for what is not finite.
__device__ float StepsBelow(float largest, float logit) { return (largest - logit) * kRescoringStepsPerNat; }

// Calls use(token, logit) for a block's tokens, several loads under way. Past L1: peers may have written the logits.
template <class Use>
__device__ void ForTokens(const float* logits, int begin, int end, Use use) {
  constexpr int kLoads = 8;
  for (int first = begin + static_cast<int>(threadIdx.x); first < end; first += kLoads * kChoiceThreads) {
    float values[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int token = first + i * kChoiceThreads;
      values[i] = token < end ? __ldcg(logits + token) : 0.0F;
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int token = first + i * kChoiceThreads;
      if (token < end) {
        use(token, values[i]);
      }
    }
  }
}

// The blocks of a cluster share a row. Bins are counted in each block's shared memory and added up over the cluster, so
// that each block knows how many tokens those in front of it list.
__global__ void __launch_bounds__(kChoiceThreads) ChoiceKernel(const RescoringParams p) {
  __shared__ Shared shared;
  LaunchDependents();
  WaitForPreviousGrid();
  const auto row = static_cast<int>(blockIdx.y);
  if (row >= NumRows(p.num_rows, p.max_rows)) {
    return;
  }
  Cluster c = {&shared, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x)};
  const auto thread = static_cast<int>(threadIdx.x);
  if (p.widths[row] >= kRescoredBits) {
    if (c.rank == 0 && thread == 0) {
      Counts(p)[row] = 0;
    }
    return;
  }
  const float* logits = p.logits + row * p.stride;
  const int share = (p.vocab + c.size - 1) / c.size;
  const int begin = min(p.vocab, c.rank * share);
  const int end = min(p.vocab, begin + share);

  float largest = -INFINITY;
  ForTokens(logits, begin, end, [&](int, float logit) { largest = fmaxf(largest, logit); });
  largest = sampling::ReduceCluster(c, largest, [](float a, float b) { return fmaxf(a, b); });

  uint32_t* bins = shared.low_bins[0];
  bins[thread] = 0;
  if (thread == 0) {
    shared.found[0] = 0;
  }
  __syncthreads();
  ForTokens(logits, begin, end, [&](int, float logit) {
    const float steps = StepsBelow(largest, logit);
    if (steps < kRescoringSteps) {
      // Negative only if someone writes logits meanwhile: a benchmark without the ranks' barriers.
      atomicAdd(&bins[static_cast<int>(fmaxf(steps, 0.0F))], 1U);
    }
  });
  ClusterSync();
  uint32_t in_bin = 0;
  uint32_t before = 0;  // of the blocks in front
  for (int rank = 0; rank < c.size; ++rank) {
    const uint32_t count = *Remote(&bins[thread], rank);
    in_bin += count;
    before += rank < c.rank ? count : 0;
  }
  const sampling::Mass sum = sampling::BlockScan(c, in_bin);
  // Sums grow, so it is the first threads that agree.
  const int steps =
      __syncthreads_count(thread < kRescoringSteps && sum <= static_cast<sampling::Mass>(p.limit) ? 1 : 0);
  if (thread < steps && before > 0) {
    atomicAdd(&shared.found[0], before);
  }
  if (c.rank == 0 && thread == max(steps - 1, 0)) {
    Counts(p)[row] = steps == 0 ? 0 : static_cast<uint32_t>(sum);
  }
  __syncthreads();
  if (steps > 0) {
    uint32_t* tokens = Tokens(p, row);
    ForTokens(logits, begin, end, [&](int token, float logit) {
      if (StepsBelow(largest, logit) < static_cast<float>(steps)) {
        const uint32_t at = atomicAdd(&shared.found[0], 1U);
        // More than were counted: likewise.
        if (at < static_cast<uint32_t>(p.limit)) {
          tokens[at] = static_cast<uint32_t>(token);
        }
      }
    });
  }
  ClusterSync();  // others may still read this block's memory
}

// Where four columns of a row lie in shared memory, in float4: those that a warp's lanes read together are in different
// banks. `block`: of 64 columns; lane c of a record has columns 16 c + 4 j of it.
__device__ int ActivationAt(int block, int c, int j) {
  return 16 * block + ((4 * j + c) ^ (block / kRecordBlocks % 2 * 4));
}

// A row of activations to shared memory, normalised, zeros up to a whole block of 64 columns.
__device__ void LoadActivations(const RescoringParams& p, int row, float* activations, float* scratch) {
  const auto cols = static_cast<int>(p.head.cols);
  const int padded = (cols + kBlockCols - 1) / kBlockCols * kBlockCols;
  const float* x = p.x + row * p.ldx;
  const auto place = [=](int col) -> float& {
    const int in_block = col % kBlockCols;
    return activations[4 * ActivationAt(col / kBlockCols, in_block / 16, in_block % 16 / 4) + col % 4];
  };
  float squares = 0;
#pragma unroll 4
  for (auto col = static_cast<int>(threadIdx.x); col < padded; col += kScoreThreads) {
    const float value = col < cols ? __ldcg(x + col) : 0.0F;
    squares += value * value;
    place(col) = value;
  }
  if (p.norm_weight != nullptr) {
    const float scale = 1.0F / sqrtf(BlockSum(squares, scratch) / static_cast<float>(cols) + p.norm_eps);
    for (auto col = static_cast<int>(threadIdx.x); col < cols; col += kScoreThreads) {
      place(col) *= scale * p.norm_weight[col];
    }
  }
  __syncthreads();
}

// A lane's words of a record: of each of the eight, one for every block; zeros for blocks that the record lacks.
__device__ void LoadWords(const RecordView& record, int lane, uint32_t (&words)[kRecordWords][kRecordBlocks]) {
#pragma unroll
  for (int w = 0; w < kRecordWords; ++w) {
    const auto* word = reinterpret_cast<const uint32_t*>(record.words + w * record.blocks * kBlockWordBytes);
    if (record.blocks == kRecordBlocks) {
      const uint4 all = __ldg(reinterpret_cast<const uint4*>(word) + lane);
      words[w][0] = all.x;
      words[w][1] = all.y;
      words[w][2] = all.z;
      words[w][3] = all.w;
      continue;
    }
#pragma unroll
    for (int block = 0; block < kRecordBlocks; ++block) {
      words[w][block] = block < record.blocks ? __ldg(word + lane * record.blocks + block) : 0;
    }
  }
}

// Row `row` of the head at 8 bits times the activations, by a warp: four lanes have a record, as its layout has it, and
// eight records are under way. Sums are added in an order that depends on the columns only.
__device__ float Score(const RecordGeometry& head, int64_t row, const float4* activations) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int c = lane % 4;
  const int r = static_cast<int>(row % 8);
  const int upper = static_cast<int>(row / 8 % 2);
  float sum = 0;
  for (int first = lane / 4 * kRecordBlocks; first < head.blocks; first += 8 * kRecordBlocks) {
    const RecordView record = FindRecord(head, row / kTileRows, first / kRecordBlocks);
    uint32_t words[kRecordWords][kRecordBlocks];
    LoadWords(record, 4 * r + c, words);
#pragma unroll
    for (int block = 0; block < kRecordBlocks; ++block) {
      if (block >= record.blocks) {
        break;
      }
      uint32_t own[kRecordWords];
#pragma unroll
      for (int w = 0; w < kRecordWords; ++w) {
        own[w] = words[w][block];
      }
      uint32_t codes[8];
      Unpack<8>(own, codes);
      const ScaleOffset s = LoadScale(record, r, block / head.group_blocks, upper, MidOf(8));
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t four = upper == 0 ? codes[j] : codes[4 + j];
        const float4 x = activations[ActivationAt(first + block, c, j)];
        sum += DecodeCode<0>(four, s) * x.x;
        sum += DecodeCode<1>(four, s) * x.y;
        sum += DecodeCode<2>(four, s) * x.z;
        sum += DecodeCode<3>(four, s) * x.w;
      }
    }
  }
  return WarpSum(sum);
}

// A warp a token.
__global__ void __launch_bounds__(kScoreThreads) ScoreKernel(const RescoringParams p, const RecordGeometry head) {
  extern __shared__ __align__(16) float memory[];
  __shared__ float scratch[32];
  LaunchDependents();
  WaitForPreviousGrid();
  const auto row = static_cast<int>(blockIdx.y);
  if (row >= NumRows(p.num_rows, p.max_rows)) {
    return;
  }
  const int count = static_cast<int>(min(__ldcg(Counts(p) + row), static_cast<uint32_t>(p.limit)));
  const auto block = static_cast<int>(blockIdx.x);
  const auto blocks = static_cast<int>(gridDim.x);
  if (block >= count) {
    return;
  }
  LoadActivations(p, row, memory, scratch);
  for (int i = block + blocks * static_cast<int>(threadIdx.x / 32); i < count; i += blocks * kScoreWarps) {
    const int64_t token = __ldcg(Tokens(p, row) + i);
    const int64_t own = token - p.vocab_begin;
    if (own < 0 || own >= head.rows) {
      continue;
    }
    const float score = Score(head, own, reinterpret_cast<const float4*>(memory));
    if (threadIdx.x % 32 == 0) {
      p.logits[row * p.stride + token] = score;
    }
  }
}

// Of the activations, padded as in LoadActivations.
size_t SharedBytes(int64_t cols) { return static_cast<size_t>(CeilDiv(cols, kBlockCols) * kBlockCols) * sizeof(float); }

}  // namespace

size_t RescoringWorkspaceBytes(int max_rows, int limit) {
  return static_cast<size_t>(max_rows) * (static_cast<size_t>(limit) + 1) * sizeof(uint32_t);
}

cudaError_t LaunchRescoringChoice(const RescoringParams& params, cudaStream_t stream, bool programmatic) {
  if (params.vocab < 1 || params.limit < 0 || params.max_rows < 1) {
    return cudaErrorInvalidValue;
  }
  const int cluster = params.portable ? 1 : sampling::ClusterSize();
  const dim3 grid(static_cast<unsigned>(cluster), static_cast<unsigned>(params.max_rows));
  return LaunchGrid(ChoiceKernel, grid, dim3(kChoiceThreads), 0, stream, programmatic, cluster, params);
}

cudaError_t LaunchRescoring(const RescoringParams& params, cudaStream_t stream, bool programmatic) {
  const DeviceNestedMatrix& head = params.head;
  if (head.paired || head.cols < 1 || head.cols > kMaxRescoringCols ||
      (head.group_size != kBlockCols && head.group_size != 2 * kBlockCols) || params.limit < 0 || params.max_rows < 1) {
    return cudaErrorInvalidValue;
  }
  if (params.limit == 0) {
    return cudaSuccess;
  }
  // The most of any launch, not this one's: threads that launch on one device share the attribute.
  const cudaError_t status = cudaFuncSetAttribute(ScoreKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                  static_cast<int>(SharedBytes(kMaxRescoringCols)));
  if (status != cudaSuccess) {
    return status;
  }
  int blocks = kScoreBlocks / params.max_rows;
  blocks = blocks < kLeastBlocksOfRow ? kLeastBlocksOfRow : blocks > kMostBlocksOfRow ? kMostBlocksOfRow : blocks;
  blocks = blocks < params.limit ? blocks : params.limit;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(params.max_rows));
  return LaunchGrid(ScoreKernel, grid, dim3(kScoreThreads), SharedBytes(head.cols), stream, programmatic, 1, params,
                    GeometryOf(head));
}

}  // namespace flexquant::cuda
