#ifndef FLEXQUANT_CONTROLLER_KV_BLOCKS_H_
#define FLEXQUANT_CONTROLLER_KV_BLOCKS_H_

#include <cstdint>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

#include "absl/types/span.h"
#include "controller/prefix_key.h"

namespace flexquant::controller {

// The KV blocks of one executor: who uses them, and which hold the beginning of a prompt that may come again. A block
// of a known prefix is shared by the sequences that begin with it, and when none uses it any more it stays, to be taken
// by the least recently used first when nothing else is free. Memory is taken for blocks that were given out before,
// not for all that the executor says it has. Not thread-safe.
class KvBlocks {
 public:
  // `block_tokens` >= 1.
  KvBlocks(uint32_t num_blocks, uint32_t block_tokens);

  // Blocks that hold `tokens` positions.
  uint32_t BlocksFor(uint64_t tokens) const;
  // `count` distinct blocks that nobody uses, or nullopt when there are fewer. Prefixes are forgotten as needed.
  std::optional<std::vector<uint32_t>> Allocate(uint32_t count);
  // Blocks of the longest known beginning of `keys`, one a key, now used once more.
  std::vector<uint32_t> UsePrefix(absl::Span<const PrefixKey> keys);
  // How many blocks UsePrefix would give.
  uint32_t KnownPrefix(absl::Span<const PrefixKey> keys) const;
  // `block`, which is in use, holds this prefix from now on. Ignored if another one already does.
  void Remember(const PrefixKey& key, uint32_t block);
  // Uses each block once less; each must be in use.
  void Release(const std::vector<uint32_t>& blocks);

  uint32_t num_blocks() const { return num_blocks_; }
  uint32_t block_tokens() const { return block_tokens_; }
  // Blocks that Allocate can give.
  uint32_t num_available() const {
    return static_cast<uint32_t>(num_blocks_ - blocks_.size() + free_.size() + unused_.size());
  }
  // Those of them that hold a prefix.
  uint32_t num_remembered_unused() const { return static_cast<uint32_t>(unused_.size()); }

 private:
  struct Block {
    uint32_t users = 0;
    std::optional<PrefixKey> key;
    std::list<uint32_t>::iterator place;  // in unused_, if it has a key and no users
  };

  const uint32_t num_blocks_;
  const uint32_t block_tokens_;
  std::vector<Block> blocks_;   // that were given out at least once: the first ones
  std::vector<uint32_t> free_;  // of those, without a prefix; the last one goes next
  std::list<uint32_t> unused_;  // with a prefix, least recently used first
  std::unordered_map<PrefixKey, uint32_t, PrefixKeyHash> prefixes_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_KV_BLOCKS_H_
