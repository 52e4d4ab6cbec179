#include "controller/kv_blocks.h"

#include <algorithm>
#include <limits>

#include "common/check.h"

namespace flexquant::controller {

KvBlocks::KvBlocks(uint32_t num_blocks, uint32_t block_tokens) : num_blocks_(num_blocks), block_tokens_(block_tokens) {
  FQ_CHECK(block_tokens >= 1);
}

uint32_t KvBlocks::BlocksFor(uint64_t tokens) const {
  const uint64_t blocks = tokens / block_tokens_ + (tokens % block_tokens_ > 0 ? 1 : 0);
  return static_cast<uint32_t>(std::min<uint64_t>(blocks, std::numeric_limits<uint32_t>::max()));
}

std::optional<std::vector<uint32_t>> KvBlocks::Allocate(uint32_t count) {
  if (count > num_available()) {
    return std::nullopt;
  }
  std::vector<uint32_t> allocated;
  allocated.reserve(count);
  while (allocated.size() < count) {
    uint32_t block = 0;
    if (!free_.empty()) {
      block = free_.back();
      free_.pop_back();
    } else if (blocks_.size() < num_blocks_) {
      block = static_cast<uint32_t>(blocks_.size());
      blocks_.emplace_back();
    } else {
      block = unused_.front();
      unused_.pop_front();
      prefixes_.erase(*blocks_[block].key);
      blocks_[block].key.reset();
    }
    blocks_[block].users = 1;
    allocated.push_back(block);
  }
  return allocated;
}

uint32_t KvBlocks::KnownPrefix(absl::Span<const PrefixKey> keys) const {
  const auto unknown = std::find_if(keys.begin(), keys.end(),
                                    [&](const PrefixKey& key) { return prefixes_.find(key) == prefixes_.end(); });
  return static_cast<uint32_t>(unknown - keys.begin());
}

std::vector<uint32_t> KvBlocks::UsePrefix(absl::Span<const PrefixKey> keys) {
  std::vector<uint32_t> used(KnownPrefix(keys));
  for (size_t i = 0; i < used.size(); ++i) {
    used[i] = prefixes_.at(keys[i]);
    Block& block = blocks_[used[i]];
    if (block.users++ == 0) {
      unused_.erase(block.place);
    }
  }
  return used;
}

void KvBlocks::Remember(const PrefixKey& key, uint32_t block) {
  FQ_CHECK(blocks_[block].users > 0);
  if (!blocks_[block].key.has_value() && prefixes_.emplace(key, block).second) {
    blocks_[block].key = key;
  }
}

void KvBlocks::Release(const std::vector<uint32_t>& blocks) {
  // From the end: of one sequence's blocks the beginning is the likeliest to come again, so it goes last.
  for (size_t i = blocks.size(); i > 0; --i) {
    Block& block = blocks_[blocks[i - 1]];
    FQ_CHECK(block.users > 0);
    if (--block.users > 0) {
      continue;
    }
    if (block.key.has_value()) {
      block.place = unused_.insert(unused_.end(), blocks[i - 1]);
    } else {
      free_.push_back(blocks[i - 1]);
    }
  }
}

}  // namespace flexquant::controller
