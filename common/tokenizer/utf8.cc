#include "common/tokenizer/utf8.h"

#include <cstring>

#include "common/tokenizer/tokenizer.h"

namespace flexquant {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";

struct Lead {
  size_t length;
  uint8_t second_min;
  uint8_t second_max;
};

// The second byte's range is what rules out overlong forms, surrogates and values above U+10FFFF.
Lead ClassifyLead(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// Python's str.isspace() also takes the four ASCII information separators.
bool IsPythonSpace(uint32_t code_point) {
  return IsUnicodeSpace(code_point) || (code_point >= 0x1C && code_point <= 0x1F);
}

size_t PreviousStart(absl::string_view text, size_t end) {
  size_t start = end - 1;
  while (start > 0 && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
  return start;
}

}  // namespace

Utf8Unit ReadUtf8(absl::string_view text, size_t position) {
  const auto byte_at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte_at(position);
  const Lead lead = ClassifyLead(first);
  if (lead.length == 0) return {Utf8Kind::kInvalid, 1, 0xFFFD};
  if (lead.length == 1) return {Utf8Kind::kValid, 1, first};
  uint32_t code_point = first & (0x7Fu >> lead.length);
  for (size_t i = 1; i < lead.length; ++i) {
    if (position + i >= text.size()) return {Utf8Kind::kIncomplete, i, 0xFFFD};
    const uint8_t byte = byte_at(position + i);
    const uint8_t low = i == 1 ? lead.second_min : 0x80;
    const uint8_t high = i == 1 ? lead.second_max : 0xBF;
    if (byte < low || byte > high) return {Utf8Kind::kInvalid, i, 0xFFFD};
    code_point = (code_point << 6) | (byte & 0x3Fu);
  }
  return {Utf8Kind::kValid, lead.length, code_point};
}

void AppendUtf8(uint32_t code_point, std::string* out) {
  const auto tail = [&](int shift) { out->push_back(static_cast<char>(0x80 | ((code_point >> shift) & 0x3F))); };
  if (code_point < 0x80) {
    out->push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out->push_back(static_cast<char>(0xC0 | (code_point >> 6)));
    tail(0);
  } else if (code_point < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | (code_point >> 12)));
    tail(6);
    tail(0);
  } else {
    out->push_back(static_cast<char>(0xF0 | (code_point >> 18)));
    tail(12);
    tail(6);
    tail(0);
  }
}

std::string TakeCompleteUtf8(std::string* pending) {
  std::string out;
  size_t position = 0;
  while (position < pending->size()) {
    const Utf8Unit unit = ReadUtf8(*pending, position);
    if (unit.kind == Utf8Kind::kIncomplete) break;
    if (unit.kind == Utf8Kind::kValid) {
      out.append(*pending, position, unit.length);
    } else {
      out.append(kReplacement);
    }
    position += unit.length;
  }
  pending->erase(0, position);
  return out;
}

std::string ReplaceInvalidUtf8(absl::string_view text) {
  std::string pending(text);
  std::string out = TakeCompleteUtf8(&pending);
  if (!pending.empty()) out.append(kReplacement);
  return out;
}

int64_t FindInvalidUtf8(absl::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    uint64_t block;
    if (position + sizeof(block) <= text.size()) {
      std::memcpy(&block, text.data() + position, sizeof(block));
      if ((block & 0x8080808080808080u) == 0) {
        position += sizeof(block);
        continue;
      }
    }
    const Utf8Unit unit = ReadUtf8(text, position);
    if (unit.kind != Utf8Kind::kValid) return static_cast<int64_t>(position);
    position += unit.length;
  }
  return -1;
}

bool IsUnicodeSpace(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

absl::string_view StripSpace(absl::string_view text) {
  while (!text.empty()) {
    const Utf8Unit unit = ReadUtf8(text, 0);
    if (!IsPythonSpace(unit.code_point)) break;
    text.remove_prefix(unit.length);
  }
  while (!text.empty()) {
    const size_t start = PreviousStart(text, text.size());
    if (!IsPythonSpace(ReadUtf8(text, start).code_point)) break;
    text = text.substr(0, start);
  }
  return text;
}

}  // namespace flexquant
