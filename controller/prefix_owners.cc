#include "controller/prefix_owners.h"

#include <algorithm>

namespace flexquant::controller {

PrefixOwners::Executors& PrefixOwners::Insert(const PrefixKey& key, const Executors& executors) {
  if (young_.size() >= capacity_) {
    old_ = std::exchange(young_, {});
  }
  return young_[key] = executors;
}

PrefixOwners::Executors* PrefixOwners::Look(const PrefixKey& key) {
  if (const auto found = young_.find(key); found != young_.end()) {
    return &found->second;
  }
  if (const auto found = old_.find(key); found != old_.end()) {
    const Executors executors = found->second;
    return &Insert(key, executors);
  }
  return nullptr;
}

void PrefixOwners::Add(absl::Span<const PrefixKey> keys, uint32_t executor) {
  for (const PrefixKey& key : keys) {
    Executors* owners = Look(key);
    if (owners == nullptr) {
      owners = &Insert(key, {});
    }
    // To the front; the last one goes, or closes the gap.
    auto place = std::find(owners->begin(), owners->end() - 1, executor);
    *place = executor;
    std::rotate(owners->begin(), place, place + 1);
  }
}

std::vector<PrefixOwners::Owner> PrefixOwners::Find(absl::Span<const PrefixKey> keys) {
  std::vector<Owner> found;
  for (uint32_t i = 0; i < keys.size(); ++i) {
    const Executors* owners = Look(keys[i]);
    if (owners == nullptr) {
      break;
    }
    bool longer = false;
    for (const uint32_t executor : *owners) {
      const auto known =
          std::find_if(found.begin(), found.end(), [&](const Owner& o) { return o.executor == executor; });
      if (executor != 0 && i == 0) {
        found.push_back({executor, 1});
        longer = true;
      } else if (known != found.end() && known->keys == i) {
        known->keys = i + 1;
        longer = true;
      }
    }
    if (!longer) {
      break;
    }
  }
  return found;
}

}  // namespace flexquant::controller
