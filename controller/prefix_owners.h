#ifndef FLEXQUANT_CONTROLLER_PREFIX_OWNERS_H_
#define FLEXQUANT_CONTROLLER_PREFIX_OWNERS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "controller/prefix_key.h"

namespace flexquant::controller {

// Which executors took a prompt with a given beginning last. It is not told what their caches forget, and keeps as much
// as fits into two tables of `capacity` keys, the recently used ones: a wrong answer costs time, never a token. Not
// thread-safe.
class PrefixOwners {
 public:
  static constexpr size_t kOwners = 4;  // of a key; those who took it last
  struct Owner {
    uint32_t executor = 0;
    uint32_t keys = 0;  // of the beginning, that it has taken
  };

  explicit PrefixOwners(size_t capacity) : capacity_(capacity) {}

  void Add(absl::Span<const PrefixKey> keys, uint32_t executor);
  // Each with the longest beginning of `keys`; in no order.
  std::vector<Owner> Find(absl::Span<const PrefixKey> keys);

 private:
  using Executors = std::array<uint32_t, kOwners>;  // last first; 0 = none
  using Table = std::unordered_map<PrefixKey, Executors, PrefixKeyHash>;

  // Null if it is not known. One of the older table moves to the younger one.
  Executors* Look(const PrefixKey& key);
  Executors& Insert(const PrefixKey& key, const Executors& executors);

  const size_t capacity_;
  Table young_;
  Table old_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_PREFIX_OWNERS_H_
