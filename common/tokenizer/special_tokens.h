#ifndef FLEXQUANT_COMMON_TOKENIZER_SPECIAL_TOKENS_H_
#define FLEXQUANT_COMMON_TOKENIZER_SPECIAL_TOKENS_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "common/tokenizer/tokenizer_spec.h"

namespace flexquant {

// Finds written-out special tokens in text: leftmost first, longest of several. Immutable and thread-safe after Add.
class SpecialTokens {
 public:
  struct Segment {
    absl::string_view text;  // of plain text; empty for a token
    int64_t id = -1;         // of a special token
  };

  SpecialTokens() { nodes_.emplace_back(); }
  // The text is not empty; one added twice keeps its first id.
  void Add(uint32_t id, const TokenEntry& token);
  // Cuts valid UTF-8 into plain text and tokens. User-defined tokens are always found, others only if `parse_special`.
  std::vector<Segment> Split(absl::string_view text, bool parse_special) const;
  // -1 if there is none.
  int64_t Find(absl::string_view text) const;

 private:
  struct Node {
    int64_t id = -1;
    bool always = false;
    bool strip_left = false;
    bool strip_right = false;
  };
  uint32_t Child(uint32_t node, char byte) const;  // 0 = none

  std::vector<Node> nodes_;
  absl::flat_hash_map<uint64_t, uint32_t> children_;
  std::array<bool, 256> starts_{};
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_TOKENIZER_SPECIAL_TOKENS_H_
