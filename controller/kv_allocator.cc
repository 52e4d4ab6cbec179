#include "controller/kv_allocator.h"

#include <algorithm>

#include "common/check.h"

namespace flexquant::controller {

KvAllocator::KvAllocator(uint32_t num_blocks, uint32_t block_tokens)
    : num_blocks_(num_blocks), block_tokens_(block_tokens), free_(num_blocks), allocated_(num_blocks, false) {
  FQ_CHECK(block_tokens >= 1);
  for (uint32_t i = 0; i < num_blocks; ++i) {
    free_[i] = num_blocks - 1 - i;
  }
}

uint32_t KvAllocator::BlocksFor(uint64_t tokens) const {
  return static_cast<uint32_t>(std::min<uint64_t>((tokens + block_tokens_ - 1) / block_tokens_, UINT32_MAX));
}

std::optional<std::vector<uint32_t>> KvAllocator::Allocate(uint32_t count) {
  if (count > free_.size()) {
    return std::nullopt;
  }
  std::vector<uint32_t> blocks;
  blocks.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    blocks.push_back(free_.back());
    free_.pop_back();
    allocated_[blocks.back()] = true;
  }
  return blocks;
}

void KvAllocator::Free(const std::vector<uint32_t>& blocks) {
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    FQ_CHECK(*block < num_blocks_ && allocated_[*block]);
    allocated_[*block] = false;
    free_.push_back(*block);
  }
}

}  // namespace flexquant::controller
