#ifndef FLEXQUANT_CONTROLLER_PREFIX_KEY_H_
#define FLEXQUANT_CONTROLLER_PREFIX_KEY_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/precision.h"

namespace flexquant::controller {

// Names the contents of a KV block: its tokens, all tokens before them, the plan that they were computed with, and who
// may share them. 128 bits of XXH3 with a secret seed of this process.
struct PrefixKey {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const PrefixKey& other) const { return low == other.low && high == other.high; }
};

struct PrefixKeyHash {
  size_t operator()(const PrefixKey& key) const { return static_cast<size_t>(key.low); }
};

// Keys of the blocks of `block_tokens` that `tokens` fills, in order; a last block that is not full has none.
std::vector<PrefixKey> PrefixKeys(absl::string_view tenant, const PrecisionPlan& plan,
                                  const std::vector<uint32_t>& tokens, uint32_t block_tokens);

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_PREFIX_KEY_H_
