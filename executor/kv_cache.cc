#include "executor/kv_cache.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/kernels.h"
#include "proto/executor_limits.h"

namespace flexquant::executor {
namespace {

constexpr uint64_t kDefaultSequences = 4;
constexpr uint32_t kMaxBlockTokens = 1024;

uint64_t ToMiB(uint64_t bytes) { return (bytes + (1U << 20) - 1) >> 20; }

absl::Status CheckBits(const ModelConfig& config, uint32_t block_tokens, int bits) {
  if (bits != 8 && bits != 16) {
    return absl::InvalidArgumentError(absl::StrCat("keys and values of ", bits, " bits; allowed: 8, 16"));
  }
  if (bits == 8 && block_tokens % kKv8SlabTokens != 0) {
    return absl::InvalidArgumentError(absl::StrCat("KV block of ", block_tokens, " tokens; with 8-bit keys and values ",
                                                   "it has a multiple of ", kKv8SlabTokens));
  }
  if (bits == 8 && config.head_dim > kMaxKv8HeadDim) {
    return absl::InvalidArgumentError(absl::StrCat("heads of ", config.head_dim, " dimensions; with 8-bit keys and ",
                                                   "values at most ", kMaxKv8HeadDim, ": use 16 bits"));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t KvCache::Shape::PartBytes() const {
  return bits == 8 ? block_tokens / kKv8SlabTokens * static_cast<int64_t>(Kv8SlabBytes(head_dim))
                   : block_tokens * head_dim * static_cast<int64_t>(sizeof(uint16_t));
}

absl::StatusOr<KvCache::Shape> KvCache::Plan(const ModelConfig& config, uint32_t block_tokens, uint64_t cache_bytes,
                                             uint64_t available_bytes, int bits) {
  if (block_tokens < 1 || block_tokens > kMaxBlockTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV block of ", block_tokens, " tokens; allowed: 1 to ", kMaxBlockTokens));
  }
  FQ_RETURN_IF_ERROR(CheckBits(config, block_tokens, bits));
  Shape shape{config.num_layers, config.num_kv_heads, config.head_dim, block_tokens, 0, bits};
  const uint64_t block_bytes = shape.BlockBytes();
  uint64_t blocks = cache_bytes / block_bytes;
  if (cache_bytes == 0) {
    const auto context = static_cast<uint64_t>(config.max_context);
    blocks =
        std::min(kDefaultSequences * ((context + block_tokens - 1) / block_tokens), available_bytes / 4 / block_bytes);
  }
  if (blocks == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a KV cache of ", cache_bytes == 0 ? available_bytes / 4 : cache_bytes,
                     " bytes holds no block; one block of ", block_tokens, " tokens takes ", block_bytes, " bytes"));
  }
  // Also if more was asked for than the limit of blocks leaves: it is not what the user will get.
  if (const uint64_t needed = blocks * block_bytes; needed > available_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("the KV cache needs ", ToMiB(needed), " MiB but ",
                                                     ToMiB(available_bytes),
                                                     " MiB of memory are free: ", ToMiB(needed - available_bytes),
                                                     " MiB are missing; ask for a smaller cache or free memory"));
  }
  shape.num_blocks = static_cast<uint32_t>(std::min<uint64_t>(blocks, kMaxKvBlocks));
  return shape;
}

absl::StatusOr<KvCache> KvCache::Create(const Shape& shape) {
  KvCache cache;
  cache.shape_ = shape;
  FQ_ASSIGN_OR_RETURN(cache.memory_, LazyBuffer::Allocate(shape.Bytes(), "the KV cache"));
  return cache;
}

}  // namespace flexquant::executor
