#include "executor/tensor_parallel/shard.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/nested_matrix.h"

namespace flexquant::executor {
namespace {

// Part `index` of [0, total) in `parts` parts of nearly equal size, cut at multiples of `step`.
Range Part(int64_t total, int64_t step, int parts, int index) {
  const int64_t steps = CeilDiv(total, step);
  return {std::min(total, steps * index / parts * step), std::min(total, steps * (index + 1) / parts * step)};
}

// Largest step at which `ranks` parts of the rows of gate all have something: a group if it can be.
int64_t InnerStep(const ModelConfig& config, int64_t group_size, int ranks) {
  int64_t step = group_size;
  while (step > 1 && CeilDiv(config.intermediate_size, step) < ranks) {
    step /= 2;
  }
  return step;
}

// Whether columns of some rank begin inside a group.
bool CutsGroups(const std::vector<Shard>& shards, Range Shard::*cols, int64_t group_size) {
  return std::any_of(shards.begin(), shards.end(),
                     [&](const Shard& shard) { return (shard.*cols).begin % group_size != 0; });
}

void CutHeads(const ModelConfig& config, Shard& shard) {
  const int64_t sharing = config.num_heads / config.num_kv_heads;
  if (shard.ranks <= config.num_kv_heads) {
    shard.kv_heads = Part(config.num_kv_heads, 1, shard.ranks, shard.rank);
    shard.heads = {shard.kv_heads.begin * sharing, shard.kv_heads.end * sharing};
    return;
  }
  const int copies = shard.ranks / static_cast<int>(config.num_kv_heads);
  const int64_t kv_head = shard.rank / copies;
  shard.kv_heads = {kv_head, kv_head + 1};
  const Range part = Part(sharing, 1, copies, shard.rank % copies);
  shard.heads = {kv_head * sharing + part.begin, kv_head * sharing + part.end};
}

}  // namespace

ModelConfig Shard::Config(const ModelConfig& whole) const {
  ModelConfig config = whole;
  config.num_heads = heads.size();
  config.num_kv_heads = kv_heads.size();
  config.intermediate_size = inner.size();
  config.vocab_size = vocab.size();
  return config;
}

std::vector<int> TensorParallelSizes(const ModelConfig& config) {
  std::vector<int> sizes;
  for (int ranks = 1; ranks <= kMaxTensorParallel; ++ranks) {
    const bool heads = ranks <= config.num_kv_heads || (ranks <= config.num_heads && ranks % config.num_kv_heads == 0);
    if (heads && ranks <= config.intermediate_size && ranks <= CeilDiv(config.vocab_size, kTileRows)) {
      sizes.push_back(ranks);
    }
  }
  return sizes;
}

absl::StatusOr<std::vector<Shard>> CutModel(const ModelConfig& config, int64_t group_size, int ranks) {
  const std::vector<int> sizes = TensorParallelSizes(config);
  if (std::find(sizes.begin(), sizes.end(), ranks) == sizes.end()) {
    return absl::InvalidArgumentError(absl::StrCat("tensor parallelism of ", ranks, " does not fit a model of ",
                                                   config.num_heads, " heads and ", config.num_kv_heads,
                                                   " KV heads; allowed: ", absl::StrJoin(sizes, ", ")));
  }
  std::vector<Shard> shards(static_cast<size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    Shard& shard = shards[static_cast<size_t>(rank)];
    shard.rank = rank;
    shard.ranks = ranks;
    CutHeads(config, shard);
    shard.inner = Part(config.intermediate_size, InnerStep(config, group_size, ranks), ranks, rank);
    shard.vocab = Part(config.vocab_size, kTileRows, ranks, rank);
    shard.o_cols = {shard.heads.begin * config.head_dim, shard.heads.end * config.head_dim};
    shard.down_cols = shard.inner;
  }
  const bool o_cut = CutsGroups(shards, &Shard::o_cols, group_size);
  const bool down_cut = CutsGroups(shards, &Shard::down_cols, group_size);
  for (Shard& shard : shards) {
    shard.share_attended = o_cut;
    shard.share_inner = down_cut;
    if (o_cut) {
      shard.o_cols = Part(config.q_size(), group_size, ranks, shard.rank);
    }
    if (down_cut) {
      shard.down_cols = Part(config.intermediate_size, group_size, ranks, shard.rank);
    }
  }
  return shards;
}

}  // namespace flexquant::executor
