#include "executor/resident_weights.h"

#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "common/status_macros.h"

namespace flexquant::executor {
namespace {

constexpr uintptr_t kHugePage = uintptr_t{1} << 21U;

uint64_t PlaneBytes(const NestedMatrix& w) { return static_cast<uint64_t>(w.tiles() * w.units() * kPlaneWordBytes); }
uint64_t ScaleBytes(const NestedMatrix& w) {
  return static_cast<uint64_t>(w.tiles() * w.groups() * 2 * kTileRows) * sizeof(uint16_t);
}
uint64_t MatrixBytes(const NestedMatrix& w) { return 8 * PlaneBytes(w) + ScaleBytes(w); }

}  // namespace

uint64_t ResidentWeights::Bytes(const ModelStore& whole) {
  uint64_t bytes = 0;
  for (int group = 0; group < whole.num_layer_groups(); ++group) {
    bytes += MatrixBytes(whole.layer_group(group));
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<ResidentWeights>> ResidentWeights::Load(const ModelStore& whole, int num_threads,
                                                                       const std::vector<int>& cpus) {
  auto resident = std::unique_ptr<ResidentWeights>(new ResidentWeights());
  FQ_ASSIGN_OR_RETURN(resident->memory_, LazyBuffer::Allocate(Bytes(whole) + kHugePage, "weights"));
  resident->memory_.PreferHugePages();
  const auto address = reinterpret_cast<uintptr_t>(resident->memory_.data());
  resident->next_ = resident->memory_.as<uint8_t>() + (-address & (kHugePage - 1));
  // A pool binds its caller to a processor, too.
  std::thread([&] {
    ThreadPool pool(num_threads, cpus);
    resident->CopyAll(whole, pool);
  }).join();
  return resident;
}

void ResidentWeights::CopyAll(const ModelStore& whole, ThreadPool& pool) {
  std::vector<BlockWeights> blocks;
  for (int64_t layer = 0; layer < whole.config().num_layers; ++layer) {
    BlockWeights block = whole.block(layer);
    for (NestedMatrix* matrix : {&block.qkv, &block.o, &block.gate_up, &block.down}) {
      Copy(*matrix, pool);
    }
    // The file's pages go on being cached by the system, but no longer count as this process's.
    whole.ReleasePages();
    blocks.push_back(block);
  }
  NestedMatrix lm_head = whole.lm_head();
  Copy(lm_head, pool);
  whole.ReleasePages();
  const bool tied = whole.embedding().base3 == whole.lm_head().base3;
  store_ =
      ModelStore::WithWeights(whole, whole.config(), std::move(blocks), tied ? lm_head : whole.embedding(), lm_head);
}

void ResidentWeights::Copy(NestedMatrix& matrix, ThreadPool& pool) {
  const NestedMatrix from = matrix;
  const auto tiles = static_cast<uint64_t>(from.tiles());
  const auto copy = [&](const void* source, uint64_t bytes) {
    uint8_t* const target = next_;
    next_ += bytes;
    const uint64_t tile = tiles == 0 ? 0 : bytes / tiles;
    pool.ParallelFor(from.tiles(), [&](int64_t begin, int64_t end, int) {
      const uint64_t at = static_cast<uint64_t>(begin) * tile;
      std::memcpy(target + at, static_cast<const uint8_t*>(source) + at, static_cast<uint64_t>(end - begin) * tile);
    });
    return target;
  };
  const uint64_t plane = PlaneBytes(from);
  matrix.base3 = copy(from.base3, 3 * plane);
  matrix.bit4 = copy(from.bit4, plane);
  matrix.bit5 = copy(from.bit5, plane);
  matrix.bit6 = copy(from.bit6, plane);
  matrix.bits78 = copy(from.bits78, 2 * plane);
  matrix.scales = reinterpret_cast<const uint16_t*>(copy(from.scales, ScaleBytes(from)));
}

}  // namespace flexquant::executor
