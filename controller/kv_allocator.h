#ifndef FLEXQUANT_CONTROLLER_KV_ALLOCATOR_H_
#define FLEXQUANT_CONTROLLER_KV_ALLOCATOR_H_

#include <cstdint>
#include <optional>
#include <vector>

namespace flexquant::controller {

// The free KV blocks of one executor. Not thread-safe.
class KvAllocator {
 public:
  // `block_tokens` >= 1.
  KvAllocator(uint32_t num_blocks, uint32_t block_tokens);

  // Blocks that hold `tokens` positions.
  uint32_t BlocksFor(uint64_t tokens) const;
  // `count` distinct blocks, or nullopt when fewer are free.
  std::optional<std::vector<uint32_t>> Allocate(uint32_t count);
  // Gives blocks back; each must be allocated.
  void Free(const std::vector<uint32_t>& blocks);

  uint32_t num_blocks() const { return num_blocks_; }
  uint32_t num_free() const { return static_cast<uint32_t>(free_.size()); }
  uint32_t block_tokens() const { return block_tokens_; }

 private:
  const uint32_t num_blocks_;
  const uint32_t block_tokens_;
  std::vector<uint32_t> free_;  // the last one goes next
  std::vector<bool> allocated_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_KV_ALLOCATOR_H_
