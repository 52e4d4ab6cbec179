#ifndef FLEXQUANT_COMMON_TOKENIZER_JINJA_TEXT_H_
#define FLEXQUANT_COMMON_TOKENIZER_JINJA_TEXT_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace flexquant {

// A Jinja template made comparable: comments left out, string literals unescaped and between two kJinjaQuote, whatever
// quotes they had.
constexpr char kJinjaQuote = '\x01';

struct JinjaText {
  explicit JinjaText(absl::string_view source);

  bool Contains(absl::string_view part) const;
  // Start of the literals or raw text right behind `before`, up to `after`, of the first place where this is neither
  // empty nor broken by the literal's end. Empty if there is none.
  std::string Between(absl::string_view before, absl::string_view after) const;
  // All different literals that contain `part`.
  std::vector<std::string> LiteralsWith(absl::string_view part) const;
  // Terms, joined by '+', of each {{ expression }} that contains `part`.
  std::vector<std::vector<std::string>> PrintedWith(absl::string_view part) const;

  std::string text;
};

// Content of a term that is a literal; false if it is not.
bool ParseJinjaLiteral(absl::string_view term, std::string* literal);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_TOKENIZER_JINJA_TEXT_H_
