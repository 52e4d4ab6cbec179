#include <algorithm>

#include "kernels/cuda/nested_gemv.h"
#include "kernels/cuda/nested_gemv_args.h"
#include "kernels/cuda/nested_launch.h"

namespace flexquant::cuda {
namespace {

constexpr int kDefaultFusedRows = 1;
// Shared memory of an SM is 228 KB, one of them for the system in each CTA. Two CTAs leave room for one of the
// quantising kernel, and so does the limit of 112 registers. sm_80 and up: 99 KB a CTA.
constexpr int kHopperShared[3] = {0, 224 << 10, 112 << 10};
constexpr int kPortableShared = 99 << 10;
constexpr int kMinStages = 2;
// What the running grid reads waits behind every record in flight: its activations took 3.2 us instead of 1.2.
constexpr int kDefaultPace = 1;

struct Device {
  int multiprocessors = 0;
  int major = 0;
};

Device CurrentDevice() {
  Device result;
  int device = 0;
  if (cudaGetDevice(&device) == cudaSuccess) {
    cudaDeviceGetAttribute(&result.multiprocessors, cudaDevAttrMultiProcessorCount, device);
    cudaDeviceGetAttribute(&result.major, cudaDevAttrComputeCapabilityMajor, device);
  }
  return result;
}

GemvArgs ArgsOf(const GemvParams& params) {
  const DeviceNestedMatrix& w = params.weights;
  GemvArgs args{};
  args.weights = w.data;
  args.tiles = static_cast<int>(w.tiles());
  args.records = static_cast<int>(w.records());
  args.blocks = static_cast<int>(w.blocks());
  args.group_blocks = static_cast<int>(w.group_blocks());
  args.tile_bytes = w.tile_bytes();
  args.record_bytes = static_cast<int>(w.record_bytes());
  args.slices = 1;
  while (args.slices < kGemvWarps && args.slices * 2 <= args.records) {
    args.slices *= 2;
  }
  args.split = Split(params);
  args.fine_widths = params.fine_widths;
  args.widths = params.widths;
  args.valid_rows = params.valid_rows;
  args.input = InputOf(params);
  args.epilogue = params.epilogue;
  args.paired = w.paired;
  args.rows = static_cast<int>(w.rows);
  args.bias = params.bias;
  args.y = params.y;
  args.ldy = params.ldy;
  args.counters = static_cast<unsigned*>(params.workspace);
  args.partials =
      reinterpret_cast<float*>(static_cast<uint8_t*>(params.workspace) + PartialsAt(w.blocks(), Columns(params)));
  return args;
}

// Lays out shared memory for args.parts; the bytes needed without the ring.
int LayOutShared(GemvArgs& args, int ring_begin) {
  const int slot_warps = args.slices / args.parts;
  int blocks = 0;
  for (int part = 0; part < args.parts; ++part) {
    const int begin = part * slot_warps * args.records / args.slices * kRecordBlocks;
    const int end = std::min(args.blocks, (part + 1) * slot_warps * args.records / args.slices * kRecordBlocks);
    blocks = std::max(blocks, end - begin);
  }
  args.values_offset = ring_begin;
  args.scales_offset = args.values_offset + blocks * args.columns * kBlockCols;
  args.partials_offset = args.scales_offset + blocks * args.scale_columns * static_cast<int>(sizeof(float2));
  args.scratch_offset = args.partials_offset + args.depth * kGemvWarps * args.columns * 16 * 4;
  return args.scratch_offset + static_cast<int>(sizeof(GemvScratch)) - ring_begin;
}

// Whether the plan of args.parts and args.depth fits; then shared memory is laid out with the ring as long as can be.
bool Fits(const GemvParams& params, GemvArgs& args, int limit, int* total) {
  const int stage = args.record_bytes;
  const int bytes = LayOutShared(args, 0);
  if (bytes + (params.portable ? 0 : kMinStages * kGemvWarps * stage) > limit) {
    return false;
  }
  args.ring_bytes = params.portable ? 0 : std::min(kMaxStages * stage, (limit - bytes) / kGemvWarps / 128 * 128);
  *total = LayOutShared(args, args.ring_bytes * kGemvWarps) + args.ring_bytes * kGemvWarps;
  return true;
}

// Chooses parts, depth and the ring; the bytes of shared memory, or 0 if the matrix is too wide. Exchanges between CTAs
// cost more than an SM without room for the next grid, that costs more than rounds in step.
int PlanShared(const GemvParams& params, GemvArgs& args) {
  // One row: the next grid fills its rings meanwhile. More rows: longer rings and more rounds in flight are better.
  const int most = params.tuning.ctas_per_sm != 0 ? params.tuning.ctas_per_sm : (params.rows == 1 ? 2 : 1);
  const int max_parts = args.tiles > kMaxCounters ? 1 : args.slices;
  int total = 0;
  for (args.parts = std::max(1, params.tuning.parts); args.parts <= max_parts; args.parts *= 2) {
    for (int per_sm = most; per_sm >= 1; --per_sm) {
      for (args.depth = 4; args.depth >= 1; args.depth /= 2) {
        if (Fits(params, args, params.portable ? kPortableShared : kHopperShared[per_sm], &total)) {
          return total;
        }
      }
    }
  }
  return 0;
}

int Log2(int power) {
  int result = 0;
  while (1 << result < power) {
    ++result;
  }
  return result;
}

// One launch of the decode kernel.
struct Plan {
  GemvArgs args{};
  int ctas = 0;
  int shared = 0;  // 0: the matrix is too wide
};

// Columns [chunk * kMaxChunkColumns, + kMaxChunkColumns), of activations that are quantised beforehand.
Plan PlanChunk(const GemvParams& params, const Device& device, int chunk) {
  Plan plan;
  GemvArgs& args = plan.args;
  args = ArgsOf(params);
  args.first_row = chunk * kMaxChunkColumns >> args.split;
  args.columns = std::min(kMaxChunkColumns, Columns(params) - chunk * kMaxChunkColumns);
  args.scale_columns = ScaleColumns(args.columns);
  const int64_t before = static_cast<int64_t>(chunk) * args.blocks * kMaxChunkColumns;
  const QuantizedView quantized = QuantizedIn(params);
  args.values = quantized.values + before * kBlockCols;
  args.scales = quantized.scales + before;
  plan.shared = PlanShared(params, args);
  if (plan.shared == 0) {
    return plan;
  }
  const int slots = kGemvWarps / (args.slices / args.parts);
  const int sets =
      std::max(1, std::min<int>(device.multiprocessors / args.parts, static_cast<int>(CeilDiv(args.tiles, slots))));
  plan.ctas = sets * args.parts;
  args.slices_shift = Log2(args.slices);
  args.parts_shift = Log2(args.parts);
  args.depth_shift = Log2(args.depth);
  args.tile_step = sets * slots;
  args.full_rounds = args.tiles / args.tile_step;
  args.extra_tiles = args.tiles % args.tile_step;
  const int group_bytes = kRecordBlocks / args.group_blocks * 64;
  const int most_stages = params.tuning.max_stages > 0 ? std::min(params.tuning.max_stages, kMaxStages) : kMaxStages;
  for (int bits = 3; bits <= 8; ++bits) {
    const int stage = group_bytes + kRecordBlocks * bits * kBlockWordBytes;
    args.stages[bits] = static_cast<uint8_t>(std::min(most_stages, args.ring_bytes / stage));
  }
  args.pace = static_cast<uint8_t>(params.tuning.pace > 0 ? std::min(params.tuning.pace, kMaxStages) : kDefaultPace);
  return plan;
}

cudaError_t Launch(const GemvParams& params, const Plan& plan, cudaStream_t stream) {
  cudaLaunchAttribute attribute{};
  const auto config = Config(dim3(static_cast<unsigned>(plan.ctas)), kGemvThreads, plan.shared, &attribute,
                             params.dependent_launch && !params.portable, stream);
  return params.portable ? LaunchPortableGemv(plan.args, config) : LaunchHopperGemv(plan.args, config);
}

}  // namespace

size_t GemvWorkspaceBytes(const DeviceNestedMatrix& weights, int max_rows, bool fine) {
  const int columns = max_rows << (fine ? 1 : 0);
  return static_cast<size_t>(PartialsAt(weights.blocks(), columns) + PartialBytes(weights.tiles(), columns));
}

bool HopperPathSupported() { return CurrentDevice().major == 9; }

cudaError_t LaunchNestedGemv(const GemvParams& params, cudaStream_t stream) {
  const Device device = CurrentDevice();
  if (!Valid(params) || device.multiprocessors == 0 || (!params.portable && device.major != 9)) {
    return cudaErrorInvalidValue;
  }
  const int columns = Columns(params);
  const int fused_rows = params.tuning.fused_rows >= 0 ? params.tuning.fused_rows : kDefaultFusedRows;
  const bool fused = params.rows <= fused_rows && columns <= kMaxFusedColumns;
  cudaError_t error = cudaSuccess;
  for (int chunk = 0; chunk * kMaxChunkColumns < columns && error == cudaSuccess; ++chunk) {
    Plan plan = PlanChunk(params, device, chunk);
    if (plan.shared == 0) {
      return cudaErrorInvalidValue;
    }
    if (fused && plan.args.parts == 1 && plan.args.input.vectors) {
      plan.args.values = nullptr;
    } else if (chunk == 0) {
      error = LaunchQuantize(params, stream);
    }
    if (error == cudaSuccess) {
      error = Launch(params, plan, stream);
    }
  }
  return error;
}

}  // namespace flexquant::cuda
