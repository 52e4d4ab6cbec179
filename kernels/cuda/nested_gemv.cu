#include <algorithm>
#include <array>
#include <atomic>

#include "kernels/cuda/nested_gemv.h"
#include "kernels/cuda/nested_gemv_args.h"
#include "kernels/cuda/nested_launch.h"

namespace flexquant::cuda {
namespace {

// Up to so many rows are quantised in the decode kernel: by every CTA, or by each CTA of a cluster its part of them.
constexpr int kDefaultFusedRows = 1;
constexpr int kDefaultSharedRows = 2;
constexpr int kSharingParts = 2;
// Peak bytes a ns of memory for an SM from which on an SM takes two CTAs of a launch: one CTA's eight warps do not
// multiply records as fast as those arrive (H200: 37; an H100 has 25 and was measured with one only).
constexpr double kPairedBytesPerNs = 30;
constexpr int kPairedParts = 2;  // at most, of one row; several rows: 1
// Shared memory of an SM is 228 KB, one of them for the system in each CTA. Two CTAs leave room for one of the
// quantising kernel, and so does the limit of 112 registers.
constexpr int kMultiprocessorShared = 228 << 10;
constexpr int kSystemShared = 1 << 10;
constexpr int kQuantizeShared = kSystemShared + 256;  // of a CTA of the quantising kernel
constexpr int kMinStages = 2;
// Records in flight, by tiles of eight columns. What the running grid reads waits behind every record in flight: its
// activations took 3.2 us instead of 1.2. A launch that has no room before its predecessor ends is in more of a hurry.
constexpr int kNarrowPace = 1;
constexpr int kPace[5] = {0, 2, 2, 0, 1};

struct Device {
  int multiprocessors = 0;
  int major = 0;
  double bytes_per_ns = 0;  // peak of its memory
};

// Peak bytes a ns of a device's memory. Asking for its clock takes the driver longer than planning a launch.
double MemoryRate(int device) {
  static std::array<std::atomic<double>, kMaxDevices> known;
  const bool kept = device < kMaxDevices;
  double rate = kept ? known[static_cast<size_t>(device)].load() : 0;
  if (rate == 0) {
    int kilohertz = 0;
    int bits = 0;
    cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, device);
    cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, device);
    rate = 2e-6 * kilohertz * bits / 8;  // two transfers a clock
    if (kept) {
      known[static_cast<size_t>(device)] = rate;
    }
  }
  return rate;
}

Device CurrentDevice() {
  Device result;
  int device = 0;
  if (cudaGetDevice(&device) == cudaSuccess) {
    cudaDeviceGetAttribute(&result.multiprocessors, cudaDevAttrMultiProcessorCount, device);
    cudaDeviceGetAttribute(&result.major, cudaDevAttrComputeCapabilityMajor, device);
    result.bytes_per_ns = MemoryRate(device);
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
  args.columns = Columns(params);
  args.chunk_columns = ChunkColumns(params);
  args.scale_columns = ScaleColumns(args.chunk_columns);
  args.slices = 1;
  while (args.slices < kGemvWarps && args.slices * 2 <= args.records) {
    args.slices *= 2;
  }
  args.split = Split(params);
  args.keep_low_columns = params.tuning.keep_low_columns;
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
  args.scales_offset = args.values_offset + blocks * args.chunk_columns * kBlockCols;
  args.partials_offset = args.scales_offset + blocks * args.scale_columns * static_cast<int>(sizeof(float2));
  args.scratch_offset = args.partials_offset + args.depth * kGemvWarps * args.scale_columns * 16 * 4;
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

// Rows up to which the decode kernel quantises, `rows` by default.
int FusedRows(const GemvParams& params, int rows) {
  return params.tuning.fused_rows >= 0 ? params.tuning.fused_rows : rows;
}

// Whether the CTAs of a cluster can quantise a part each of up to so many rows. The sums of squares have the quantising
// kernel's order if each of the eight slices is a warp's part of a row there.
bool CanShare(const GemvParams& params, const GemvArgs& args, int rows) {
  const bool same_order = args.input.norm_weight == nullptr || args.records == 2 * kGemvWarps;
  return !params.portable && args.slices == kGemvWarps && args.input.vectors && same_order &&
         params.rows <= FusedRows(params, rows) && args.columns <= kMaxFusedColumns;
}

// Whether an SM should take two CTAs of the launch. Not of short rows: quantising those takes less than starting a
// kernel for it.
bool WantsPairs(const GemvParams& params, const GemvArgs& args, const Device& device) {
  const GemvTuning& tuning = params.tuning;
  if (params.portable || args.slices < kGemvWarps || args.chunk_columns > kTileColumns || tuning.launch_ctas == 1) {
    return false;
  }
  const bool untuned = tuning.fused_rows < 0 && tuning.parts == 0 && tuning.ctas_per_sm == 0;
  return tuning.launch_ctas == 2 || (untuned && device.bytes_per_ns >= kPairedBytesPerNs * device.multiprocessors);
}

// The plan of a launch two of whose CTAs fit into an SM, of the fewest parts; false if there is none.
bool FitsPairs(const GemvParams& params, GemvArgs& args, int* total) {
  const int most = params.rows == 1 ? kPairedParts : 1;
  for (args.parts = std::max(1, params.tuning.parts); args.parts <= std::max(most, params.tuning.parts);
       args.parts *= 2) {
    for (args.depth = 4; args.depth >= 1; args.depth /= 2) {
      if (Fits(params, args, kHopperShared / 2, total)) {
        return true;
      }
    }
  }
  return false;
}

// The plan that leaves params.tuning.shared_left; false if there is none.
bool FitsBeside(const GemvParams& params, GemvArgs& args, int* total) {
  const int limit = kMultiprocessorShared - kSystemShared - kQuantizeShared - params.tuning.shared_left;
  for (args.depth = 4; args.depth >= 1; args.depth /= 2) {
    if (Fits(params, args, std::min(limit, kHopperShared), total)) {
      return true;
    }
  }
  return false;
}

// Chooses parts, depth and the ring; the bytes of shared memory, or 0 if the matrix is too wide.
int PlanShared(const GemvParams& params, GemvArgs& args) {
  // Launches that quantise themselves: the next one fills its rings meanwhile. Others gain more from longer rings and
  // more rounds in flight.
  const bool shares = args.chunk_columns <= kNarrowColumns && CanShare(params, args, kDefaultSharedRows);
  const int most = params.tuning.ctas_per_sm != 0 ? params.tuning.ctas_per_sm : (params.rows == 1 || shares ? 2 : 1);
  const int max_parts = params.portable && args.tiles > kMaxCounters ? 1 : args.slices;
  const int preferred = params.tuning.parts != 0 ? params.tuning.parts : (shares ? kSharingParts : 1);
  int total = 0;
  args.parts = std::min(preferred, max_parts);
  if (most == 1 && !params.portable && params.tuning.shared_left > 0 && FitsBeside(params, args, &total)) {
    return total;
  }
  for (args.parts = std::min(preferred, max_parts); args.parts <= max_parts; args.parts *= 2) {
    for (int per_sm = most; per_sm >= 1; --per_sm) {
      for (args.depth = 4; args.depth >= 1; args.depth /= 2) {
        if (Fits(params, args, params.portable ? kPortableShared : kHopperShared / per_sm, &total)) {
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

// The decode kernel for all chunks of columns, of activations that are quantised beforehand.
struct Plan {
  GemvArgs args{};
  int chunks = 0;
  int ctas = 0;        // of a chunk
  int shared = 0;      // 0: the matrix is too wide
  bool pairs = false;  // an SM takes two CTAs
};

void PlanTiles(const GemvParams& params, const Device& device, Plan& plan) {
  GemvArgs& args = plan.args;
  const int slots = kGemvWarps / (args.slices / args.parts);
  const int known = params.portable || args.parts == 1 ? 0 : HopperClusters(args.parts);
  const int held = (known > 0 ? known : device.multiprocessors / args.parts) << (plan.pairs ? 1 : 0);
  const int most = params.tuning.sets > 0 ? std::min(params.tuning.sets * plan.chunks, held) : held;
  const int sets = std::max(
      1, std::min<int>(params.portable ? most : most / plan.chunks, static_cast<int>(CeilDiv(args.tiles, slots))));
  plan.ctas = sets * args.parts;
  args.slices_shift = Log2(args.slices);
  args.parts_shift = Log2(args.parts);
  args.cluster_shift = params.portable ? 0 : args.parts_shift;
  args.depth_shift = Log2(args.depth);
  args.tile_step = sets * slots;
  args.full_rounds = args.tiles / args.tile_step;
  args.extra_tiles = args.tiles % args.tile_step;
}

Plan PlanLaunch(const GemvParams& params, const Device& device) {
  Plan plan;
  GemvArgs& args = plan.args;
  args = ArgsOf(params);
  const QuantizedView quantized = QuantizedIn(params);
  args.values = quantized.values;
  args.scales = quantized.scales;
  plan.chunks = static_cast<int>(CeilDiv(args.columns, args.chunk_columns));
  plan.pairs = WantsPairs(params, args, device) && FitsPairs(params, args, &plan.shared);
  if (!plan.pairs) {
    plan.shared = PlanShared(params, args);
  }
  if (plan.shared == 0) {
    return plan;
  }
  PlanTiles(params, device, plan);
  const int group_bytes = kRecordBlocks / args.group_blocks * 64;
  const int most_stages = params.tuning.max_stages > 0 ? std::min(params.tuning.max_stages, kMaxStages) : kMaxStages;
  for (int bits = 3; bits <= 8; ++bits) {
    const int stage = group_bytes + kRecordBlocks * bits * kBlockWordBytes;
    args.stages[bits] = static_cast<uint8_t>(std::min(most_stages, args.ring_bytes / stage));
  }
  const int pace =
      args.chunk_columns <= kNarrowColumns ? kNarrowPace : kPace[CeilDiv(args.chunk_columns, kTileColumns)];
  args.pace = static_cast<uint8_t>(params.tuning.pace > 0 ? std::min(params.tuning.pace, kMaxStages) : pace);
  return plan;
}

// Whether the decode kernel quantises.
bool Fused(const GemvParams& params, const Plan& plan) {
  const GemvArgs& args = plan.args;
  if (args.parts > 1) {
    return CanShare(params, args, plan.pairs ? 0 : kDefaultSharedRows);
  }
  return params.rows <= FusedRows(params, plan.pairs ? 0 : kDefaultFusedRows) && args.columns <= kMaxFusedColumns &&
         args.input.vectors;
}

cudaError_t Launch(const GemvParams& params, Plan& plan, cudaStream_t stream) {
  const auto ctas = static_cast<unsigned>(plan.ctas);
  if (params.portable) {
    // One chunk after the other: they share the workspace's partial sums.
    const LaunchConfig config(dim3(ctas), kGemvThreads, plan.shared, stream);
    cudaError_t error = cudaSuccess;
    for (int chunk = 0; chunk < plan.chunks && error == cudaSuccess; ++chunk) {
      plan.args.first_chunk = chunk;
      error = LaunchPortableGemv(plan.args, config.get());
    }
    return error;
  }
  LaunchConfig config(dim3(ctas, static_cast<unsigned>(plan.chunks)), kGemvThreads, plan.shared, stream);
  if (params.dependent_launch) {
    config.SetDependent();
  }
  if (plan.args.parts > 1) {
    config.SetCluster(plan.args.parts);
  }
  return LaunchHopperGemv(plan.args, config.get());
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
  Plan plan = PlanLaunch(params, device);
  if (plan.shared == 0) {
    return cudaErrorInvalidValue;
  }
  if (Fused(params, plan)) {
    plan.args.values = nullptr;
  } else if (params.launches != GemvLaunches::kProduct) {
    if (const cudaError_t error = LaunchQuantize(params, stream); error != cudaSuccess) {
      return error;
    }
  }
  return params.launches == GemvLaunches::kQuantize ? cudaSuccess : Launch(params, plan, stream);
}

}  // namespace flexquant::cuda
