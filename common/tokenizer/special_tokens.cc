#include "common/tokenizer/special_tokens.h"

#include "common/tokenizer/utf8.h"

namespace flexquant {
namespace {

uint64_t Edge(uint32_t node, char byte) { return (static_cast<uint64_t>(node) << 8) | static_cast<uint8_t>(byte); }

size_t StripBefore(absl::string_view text, size_t start, size_t end) {
  while (end > start) {
    size_t previous = end - 1;
    while (previous > start && (static_cast<uint8_t>(text[previous]) & 0xC0) == 0x80) --previous;
    if (!IsUnicodeSpace(ReadUtf8(text, previous).code_point)) break;
    end = previous;
  }
  return end;
}

size_t StripAfter(absl::string_view text, size_t start) {
  while (start < text.size()) {
    const Utf8Unit unit = ReadUtf8(text, start);
    if (!IsUnicodeSpace(unit.code_point)) break;
    start += unit.length;
  }
  return start;
}

}  // namespace

void SpecialTokens::Add(uint32_t id, const TokenEntry& token) {
  uint32_t node = 0;
  for (const char byte : token.text) {
    const auto [entry, inserted] = children_.try_emplace(Edge(node, byte), static_cast<uint32_t>(nodes_.size()));
    node = entry->second;
    if (inserted) nodes_.emplace_back();
  }
  starts_[static_cast<uint8_t>(token.text.front())] = true;
  if (nodes_[node].id >= 0) return;
  nodes_[node] = {id, token.type == TokenType::kUserDefined, token.strip_left, token.strip_right};
}

uint32_t SpecialTokens::Child(uint32_t node, char byte) const {
  const auto found = children_.find(Edge(node, byte));
  return found == children_.end() ? 0 : found->second;
}

std::vector<SpecialTokens::Segment> SpecialTokens::Split(absl::string_view text, bool parse_special) const {
  std::vector<Segment> segments;
  size_t plain = 0;  // start of the text not yet given out
  size_t position = 0;
  while (position < text.size()) {
    const Node* best = nullptr;
    size_t best_end = position;
    if (starts_[static_cast<uint8_t>(text[position])]) {
      uint32_t node = 0;
      for (size_t i = position; i < text.size(); ++i) {
        node = Child(node, text[i]);
        if (node == 0) break;
        if (nodes_[node].id >= 0 && (parse_special || nodes_[node].always)) {
          best = &nodes_[node];
          best_end = i + 1;
        }
      }
    }
    if (best == nullptr) {
      ++position;
      continue;
    }
    const size_t begin = best->strip_left ? StripBefore(text, plain, position) : position;
    if (begin > plain) segments.push_back({text.substr(plain, begin - plain), -1});
    segments.push_back({absl::string_view(), best->id});
    plain = position = best->strip_right ? StripAfter(text, best_end) : best_end;
  }
  if (plain < text.size()) segments.push_back({text.substr(plain), -1});
  return segments;
}

int64_t SpecialTokens::Find(absl::string_view text) const {
  uint32_t node = 0;
  for (const char byte : text) {
    node = Child(node, byte);
    if (node == 0) return -1;
  }
  return nodes_[node].id;
}

}  // namespace flexquant
