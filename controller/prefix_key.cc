#include "controller/prefix_key.h"

#include <algorithm>
#include <random>
#include <string>

#include "xxhash.h"

namespace flexquant::controller {
namespace {

uint64_t Secret() {
  static const uint64_t secret = [] {
    std::random_device device;
    return uint64_t{device()} << 32U | device();
  }();
  return secret;
}

PrefixKey Hash(const void* data, size_t size) {
  const XXH128_hash_t hash = XXH3_128bits_withSeed(data, size, Secret());
  return {hash.low64, hash.high64};
}

}  // namespace

std::vector<PrefixKey> PrefixKeys(absl::string_view tenant, const PrecisionPlan& plan,
                                  const std::vector<uint32_t>& tokens, uint32_t block_tokens) {
  std::string root(plan.bits.begin(), plan.bits.end());
  root.append(tenant.data(), tenant.size());
  PrefixKey parent = Hash(root.data(), root.size());
  std::vector<PrefixKey> keys;
  std::vector<uint64_t> content(2 + block_tokens);
  for (size_t begin = 0; begin + block_tokens <= tokens.size(); begin += block_tokens) {
    content[0] = parent.low;
    content[1] = parent.high;
    std::copy(tokens.begin() + begin, tokens.begin() + begin + block_tokens, content.begin() + 2);
    parent = Hash(content.data(), content.size() * sizeof(uint64_t));
    keys.push_back(parent);
  }
  return keys;
}

}  // namespace flexquant::controller
