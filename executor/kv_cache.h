#ifndef FLEXQUANT_EXECUTOR_KV_CACHE_H_
#define FLEXQUANT_EXECUTOR_KV_CACHE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "common/model_config.h"
#include "executor/memory.h"

namespace flexquant::executor {

// Keys and values of all layers, in fp16 or in 8 bits (kernels/kv_8.h), in blocks of block_tokens positions. Whose
// block is whose is the controller's business: the cache knows only block ids, and several streams of one executor
// share them, so at most one controller may use an executor at a time. Not thread-safe where writes overlap.
class KvCache {
 public:
  struct Shape {
    int64_t num_layers = 0;
    int64_t num_kv_heads = 0;
    int64_t head_dim = 0;
    uint32_t block_tokens = 0;
    uint32_t num_blocks = 0;

    int bits = 16;  // of a number: 16 = fp16, or 8

    // Bytes a block takes over all layers, keys and values.
    uint64_t BlockBytes() const { return static_cast<uint64_t>(num_layers) * LayerBlockBytes(); }
    // The same of one layer.
    uint64_t LayerBlockBytes() const { return static_cast<uint64_t>(2 * num_kv_heads * PartBytes()); }
    // Of one KV head's keys, or values, in a block.
    int64_t PartBytes() const;
    uint64_t Bytes() const { return BlockBytes() * num_blocks; }
  };

  // Shape for `cache_bytes` (0 = 4 sequences of the model's context, at most a quarter of `available_bytes`).
  // INVALID_ARGUMENT if not even one block fits, block_tokens is not in [1, 1024] or there are no such blocks of
  // `bits`; RESOURCE_EXHAUSTED, saying how much is missing, if the cache does not fit into `available_bytes`.
  static absl::StatusOr<Shape> Plan(const ModelConfig& config, uint32_t block_tokens, uint64_t cache_bytes,
                                    uint64_t available_bytes, int bits = 16);

  // Memory is taken when it is first written. RESOURCE_EXHAUSTED if the address space does not allow it.
  static absl::StatusOr<KvCache> Create(const Shape& shape);

  const Shape& shape() const { return shape_; }
  // One layer's keys, or values: [num_kv_heads, num_blocks, part], so that the blocks of a head that follow each other
  // are one stream. A part in fp16 is [head_dim, block_tokens] of keys and [block_tokens, head_dim] of values; in 8
  // bits [block_tokens / 16, slab].
  uint8_t* keys(int64_t layer) const {
    return memory_.as<uint8_t>() + static_cast<uint64_t>(layer) * shape_.LayerBlockBytes() * shape_.num_blocks;
  }
  uint8_t* values(int64_t layer) const { return keys(layer) + shape_.num_kv_heads * head_stride(); }
  // Where in a layer's keys, or values, head 0's part of a block is; heads are head_stride() bytes apart.
  int64_t PartOffset(uint32_t block) const { return block * shape_.PartBytes(); }
  int64_t head_stride() const { return shape_.num_blocks * shape_.PartBytes(); }

 private:
  Shape shape_;
  LazyBuffer memory_;
};

}  // namespace flexquant::executor

#endif  // FLEXQUANT_EXECUTOR_KV_CACHE_H_
