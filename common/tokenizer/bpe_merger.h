#ifndef FLEXQUANT_COMMON_TOKENIZER_BPE_MERGER_H_
#define FLEXQUANT_COMMON_TOKENIZER_BPE_MERGER_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"

namespace flexquant {

// A symbol without a token; it never merges.
constexpr uint32_t kNoToken = 0xFFFFFFFFu;

// The merge step of byte pair encoding: again and again the adjacent pair of lowest rank (leftmost of equals) becomes
// one token. O(n log n) in the number of symbols. Merge() is thread-safe once all merges are added.
class BpeMerger {
 public:
  // Working memory of one caller, kept between calls to save allocations.
  struct Scratch {
    struct Symbol {
      uint32_t id;
      uint32_t previous;
      uint32_t next;
    };
    struct Candidate {
      uint64_t key;  // rank, then position of the left symbol
      uint32_t left;
      uint32_t right;
      uint32_t merged;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  void Reserve(size_t merges) { merges_.reserve(merges); }
  // A pair added again keeps its first rank.
  void Add(uint32_t left, uint32_t right, uint32_t rank, uint32_t merged);
  // Appends the merged symbols to `out`. At most 2^32 - 2 symbols.
  void Merge(absl::Span<const uint32_t> symbols, Scratch* scratch, std::vector<uint32_t>* out) const;

 private:
  struct Target {
    uint32_t rank;
    uint32_t merged;
  };
  void Push(uint32_t position, Scratch* scratch) const;

  absl::flat_hash_map<uint64_t, Target> merges_;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_TOKENIZER_BPE_MERGER_H_
