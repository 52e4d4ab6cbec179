#include <algorithm>
#include <initializer_list>

#include "kernels/cuda/activation_blocks.h"
#include "kernels/cuda/prefill_fused.h"
#include "kernels/cuda/prefill_fused_args.h"

namespace flexquant::cuda {
namespace {

using fused::FusedArgs;

// What a thread block takes for its start and end, in records.
constexpr double kBlockCost = 2;
// How much longer blocks for 256 tokens take that fetch all their activations alone.
constexpr double kUnsharedCost = 1.1;

int DeviceAttribute(cudaDeviceAttr attribute) {
  int device = 0;
  int value = 0;
  if (cudaGetDevice(&device) != cudaSuccess || cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess) {
    return 0;
  }
  return value;
}

bool Valid(const FusedGemmParams& p) {
  const DeviceNestedMatrix& w = p.matrix;
  const FusedTuning& t = p.tuning;
  const auto one_of = [](int value, std::initializer_list<int> allowed) {
    return std::find(allowed.begin(), allowed.end(), value) != allowed.end();
  };
  return w.rows > 0 && w.cols > 0 && (w.group_size == 64 || w.group_size == 128) &&
         w.paired == (p.epilogue == GemvEpilogue::kSiluMul) && one_of(p.bits, {3, 4, 5, 6, 8}) && p.num_rows >= 0 &&
         one_of(t.tokens, {0, 64, 128, 256}) && one_of(t.splits, {0, 1, 2, 3, 4, 6, 8}) &&
         one_of(t.share, {0, 1, 2, 4}) && std::max(1, t.splits) * std::max(1, t.share) <= fused::kMaxCluster;
}

// Thread blocks that run at once, in clusters of `cluster`: the groups of multiprocessors that a cluster must fit into
// are not multiples of four or eight.
int64_t BlocksAtOnce(int cluster) {
  const int64_t multiprocessors = std::max(1, DeviceAttribute(cudaDevAttrMultiProcessorCount));
  return cluster <= 2 ? multiprocessors : std::max<int64_t>(cluster, multiprocessors * 7 / 8 / cluster * cluster);
}

// Sets splits and share to what should take least time, from the waves of thread blocks and the records of each.
void Divide(const FusedGemmParams& p, int tokens, FusedArgs& args) {
  const int block_tiles = fused::MultipliersOf(tokens);
  double best = 0;
  for (const int share : {1, 2, 4}) {
    for (const int splits : {1, 2, 3, 4, 6, 8}) {
      const bool asked = (p.tuning.share == 0 ? share <= 2 : share == p.tuning.share) &&
                         (p.tuning.splits == 0 ? splits <= p.matrix.records() : splits == p.tuning.splits);
      const int cluster = splits * share;
      if (!asked || cluster > fused::kMaxCluster) {
        continue;
      }
      const int64_t blocks = CeilDiv(args.tiles, block_tiles * share) * CeilDiv(p.num_rows, tokens) * cluster;
      const double cost = static_cast<double>(CeilDiv(blocks, BlocksAtOnce(cluster))) *
                          (static_cast<double>(CeilDiv(p.matrix.records(), splits)) + kBlockCost) *
                          (tokens == 256 && share == 1 ? kUnsharedCost : 1.0);
      if (best == 0 || cost < best) {
        best = cost;
        args.splits = splits;
        args.share = share;
      }
    }
  }
}

}  // namespace

bool FusedGemmSupported() {
  return DeviceAttribute(cudaDevAttrComputeCapabilityMajor) == 9 &&
         DeviceAttribute(cudaDevAttrComputeCapabilityMinor) == 0;
}

cudaError_t LaunchFusedGemm(const FusedGemmParams& p, cudaStream_t stream, bool programmatic) {
  if (!Valid(p)) {
    return cudaErrorInvalidValue;
  }
  if (!FusedGemmSupported()) {
    return cudaErrorNotSupported;
  }
  if (p.num_rows == 0) {
    return cudaSuccess;
  }
  const int tokens = p.tuning.tokens > 0 ? p.tuning.tokens : p.num_rows <= 64 ? 64 : p.num_rows <= 128 ? 128 : 256;
  FusedArgs args{};
  args.matrix = GeometryOf(p.matrix);
  args.x = p.x;
  args.block_rows = ActivationBlockRows(p.num_rows);
  args.row_scale = p.row_scale;
  args.bias = p.bias;
  args.y = p.y;
  args.y_stride = p.y_stride;
  args.epilogue = p.epilogue;
  args.num_tokens = p.num_rows;
  args.tiles = static_cast<int>(p.matrix.tiles());
  Divide(p, tokens, args);
  args.vectors = reinterpret_cast<uintptr_t>(p.y) % 16 == 0 && p.y_stride % 4 == 0;
  switch (tokens) {
    case 64:
      return fused::LaunchInstance<64>(args, p.bits, stream, programmatic);
    case 128:
      return fused::LaunchInstance<128>(args, p.bits, stream, programmatic);
    default:
      return fused::LaunchInstance<256>(args, p.bits, stream, programmatic);
  }
}

}  // namespace flexquant::cuda
