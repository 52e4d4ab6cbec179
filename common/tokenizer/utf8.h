#ifndef FLEXQUANT_COMMON_TOKENIZER_UTF8_H_
#define FLEXQUANT_COMMON_TOKENIZER_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace flexquant {

enum class Utf8Kind {
  kValid,       // a whole code point
  kInvalid,     // bytes that can never become one (the longest wrong prefix, at least one byte)
  kIncomplete,  // the text ends inside a code point that may still become valid
};

struct Utf8Unit {
  Utf8Kind kind = Utf8Kind::kInvalid;
  size_t length = 1;
  uint32_t code_point = 0xFFFD;
};

// What stands at text[position]; position < text.size().
Utf8Unit ReadUtf8(absl::string_view text, size_t position);

// `code_point` is at most 0x10FFFF.
void AppendUtf8(uint32_t code_point, std::string* out);

// Moves what is complete from `pending` to the result, wrong bytes as U+FFFD; an incomplete end stays in `pending`.
std::string TakeCompleteUtf8(std::string* pending);

// `text` with wrong and incomplete bytes as U+FFFD.
std::string ReplaceInvalidUtf8(absl::string_view text);

// Unicode's White_Space.
bool IsUnicodeSpace(uint32_t code_point);

// Valid UTF-8 without white space at both ends, as Python's str.strip() does it.
absl::string_view StripSpace(absl::string_view text);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_TOKENIZER_UTF8_H_
