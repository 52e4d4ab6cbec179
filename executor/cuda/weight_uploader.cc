#include "executor/cuda/weight_uploader.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "common/precision.h"
#include "common/status_macros.h"
#include "common/store/package_layout.h"
#include "kernels/cuda/repack.h"

namespace flexquant::executor {
namespace {

constexpr size_t kPlaneAlignment = 256;  // in a buffer
constexpr size_t kBufferBytes = size_t{16} << 20;
// One thread's copies from the page cache, with the page faults of the mapping, take longer than the bus.
constexpr int kCopyThreads = 8;
constexpr size_t kCopyBytes = size_t{512} << 10;

size_t RoundUp(size_t value) { return (value + kPlaneAlignment - 1) / kPlaneAlignment * kPlaneAlignment; }

struct Plane {
  const uint8_t* data;
  size_t tile_bytes;
};

// In the order of StagedPlanes' pointers.
std::array<Plane, 6> PlanesOf(const NestedMatrix& w) {
  const auto word = static_cast<size_t>(w.units() * kPlaneWordBytes);
  return {{{w.base3, 3 * word},
           {w.bit4, word},
           {w.bit5, word},
           {w.bit6, word},
           {w.bits78, 2 * word},
           {reinterpret_cast<const uint8_t*>(w.scales), static_cast<size_t>(w.groups()) * 64}}};
}

// Of a tile in a buffer, at most.
size_t TileBytes(const NestedMatrix& w) {
  size_t bytes = 0;
  for (const Plane& plane : PlanesOf(w)) {
    bytes += RoundUp(plane.tile_bytes);
  }
  return bytes;
}

}  // namespace

size_t WeightUploader::BufferBytes(const ModelConfig& config, int64_t group_size) {
  size_t bytes = kBufferBytes;
  for (const MatrixSpec& spec : PackageMatrices(config)) {
    NestedMatrix shape;
    shape.rows = spec.rows;
    shape.cols = spec.cols;
    shape.group_size = group_size;
    bytes = std::max(bytes, TileBytes(shape));
  }
  return bytes;
}

WeightUploader::WeightUploader(size_t buffer_bytes)
    : buffer_bytes_(buffer_bytes), pool_(std::min(kCopyThreads, DefaultNumThreads())) {}

absl::StatusOr<std::unique_ptr<WeightUploader>> WeightUploader::Create(size_t buffer_bytes) {
  auto uploader = std::unique_ptr<WeightUploader>(new WeightUploader(buffer_bytes));
  for (Stage& stage : uploader->stages_) {
    FQ_ASSIGN_OR_RETURN(stage.host, AllocatePinned(buffer_bytes, "staging of weights"));
    FQ_ASSIGN_OR_RETURN(stage.device, AllocateDevice(buffer_bytes, "staging of weights"));
    FQ_RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&stage.done, cudaEventDisableTiming));
  }
  FQ_RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&uploader->stream_, cudaStreamNonBlocking));
  return uploader;
}

WeightUploader::~WeightUploader() {
  if (stream_ != nullptr) {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  for (const Stage& stage : stages_) {
    if (stage.done != nullptr) {
      cudaEventDestroy(stage.done);
    }
  }
}

absl::Status WeightUploader::Upload(const NestedMatrix& from, const cuda::DeviceNestedMatrix& to,
                                    absl::FunctionRef<absl::Status(uint64_t)> queued) {
  FQ_RETURN_IF_CUDA_ERROR(cuda::LaunchRepackClear(to, stream_));
  const auto tiles_a_piece = static_cast<int64_t>(buffer_bytes_ / TileBytes(from));
  FQ_CHECK(tiles_a_piece > 0);
  const uint64_t tile_bytes = from.BytesRead(kTopPrecision) / static_cast<uint64_t>(from.tiles());
  for (int64_t tile = 0; tile < from.tiles(); tile += tiles_a_piece) {
    const int64_t count = std::min(tiles_a_piece, from.tiles() - tile);
    FQ_RETURN_IF_ERROR(UploadPiece(from, to, tile, count));
    FQ_RETURN_IF_ERROR(queued(tile_bytes * static_cast<uint64_t>(count)));
  }
  return absl::OkStatus();
}

absl::Status WeightUploader::UploadPiece(const NestedMatrix& from, const cuda::DeviceNestedMatrix& to, int64_t first,
                                         int64_t count) {
  Stage& stage = stages_[next_++ % kBuffers];
  FQ_RETURN_IF_CUDA_ERROR(cudaEventSynchronize(stage.done));
  std::array<const uint8_t*, 6> staged{};
  size_t used = 0;
  size_t index = 0;
  copies_.clear();
  for (const Plane& plane : PlanesOf(from)) {
    const size_t bytes = static_cast<size_t>(count) * plane.tile_bytes;
    const uint8_t* data = plane.data + static_cast<size_t>(first) * plane.tile_bytes;
    for (size_t at = 0; at < bytes; at += kCopyBytes) {
      copies_.push_back({data + at, stage.host.as<uint8_t>() + used + at, std::min(kCopyBytes, bytes - at)});
    }
    staged[index++] = stage.device.as<uint8_t>() + used;
    used += RoundUp(bytes);
  }
  FQ_CHECK(used <= buffer_bytes_);
  pool_.ParallelChunks(static_cast<int64_t>(copies_.size()), 1, [this](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const Copy& copy = copies_[static_cast<size_t>(i)];
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
  });
  FQ_RETURN_IF_CUDA_ERROR(
      cudaMemcpyAsync(stage.device.as<void>(), stage.host.as<void>(), used, cudaMemcpyHostToDevice, stream_));
  const cuda::StagedPlanes planes{first,     count,     staged[0], staged[1],
                                  staged[2], staged[3], staged[4], reinterpret_cast<const uint16_t*>(staged[5])};
  FQ_RETURN_IF_CUDA_ERROR(cuda::LaunchRepack(planes, to, stream_));
  return CudaStatus(cudaEventRecord(stage.done, stream_), "cudaEventRecord");
}

absl::Status WeightUploader::Finish() { return CudaStatus(cudaStreamSynchronize(stream_), "uploading weights"); }

}  // namespace flexquant::executor
