#include "common/tokenizer/bpe_merger.h"

#include <algorithm>

#include "common/check.h"

namespace flexquant {
namespace {

constexpr uint32_t kEnd = 0xFFFFFFFFu;

uint64_t PairKey(uint32_t left, uint32_t right) { return (static_cast<uint64_t>(left) << 32) | right; }

bool Later(const BpeMerger::Scratch::Candidate& a, const BpeMerger::Scratch::Candidate& b) { return a.key > b.key; }

}  // namespace

void BpeMerger::Add(uint32_t left, uint32_t right, uint32_t rank, uint32_t merged) {
  merges_.try_emplace(PairKey(left, right), Target{rank, merged});
}

void BpeMerger::Push(uint32_t position, Scratch* scratch) const {
  const Scratch::Symbol& symbol = scratch->symbols[position];
  if (symbol.next == kEnd) return;
  const uint32_t right = scratch->symbols[symbol.next].id;
  const auto found = merges_.find(PairKey(symbol.id, right));
  if (found == merges_.end()) return;
  const uint64_t key = (static_cast<uint64_t>(found->second.rank) << 32) | position;
  scratch->heap.push_back({key, symbol.id, right, found->second.merged});
}

void BpeMerger::Merge(absl::Span<const uint32_t> ids, Scratch* scratch, std::vector<uint32_t>* out) const {
  if (ids.size() <= 1) {
    out->insert(out->end(), ids.begin(), ids.end());
    return;
  }
  FQ_CHECK(ids.size() < kEnd);
  const uint32_t count = static_cast<uint32_t>(ids.size());
  auto& symbols = scratch->symbols;
  auto& heap = scratch->heap;
  symbols.resize(count);
  heap.clear();
  for (uint32_t i = 0; i < count; ++i) symbols[i] = {ids[i], i == 0 ? kEnd : i - 1, i + 1 == count ? kEnd : i + 1};
  for (uint32_t i = 0; i + 1 < count; ++i) Push(i, scratch);
  std::make_heap(heap.begin(), heap.end(), Later);
  const auto push = [&](uint32_t position) {
    const size_t before = heap.size();
    Push(position, scratch);
    if (heap.size() != before) std::push_heap(heap.begin(), heap.end(), Later);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), Later);
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    const uint32_t position = static_cast<uint32_t>(best.key);
    Scratch::Symbol& left = symbols[position];
    // A symbol that was merged away or grew leaves stale candidates behind.
    if (left.id != best.left || left.next == kEnd || symbols[left.next].id != best.right) continue;
    Scratch::Symbol& right = symbols[left.next];
    left.id = best.merged;
    left.next = right.next;
    right.id = kNoToken;
    right.next = kEnd;
    if (left.next != kEnd) symbols[left.next].previous = position;
    push(position);
    if (left.previous != kEnd) push(left.previous);
  }
  for (uint32_t i = 0; i != kEnd; i = symbols[i].next) out->push_back(symbols[i].id);
}

}  // namespace flexquant
