#include "common/tokenizer/jinja_text.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace flexquant {
namespace {

// Appends the literal that begins at source[at] and returns the place behind it.
size_t AppendLiteral(absl::string_view source, size_t at, std::string* out) {
  const char quote = source[at];
  out->push_back(kJinjaQuote);
  for (++at; at < source.size() && source[at] != quote; ++at) {
    char c = source[at];
    if (c == '\\' && at + 1 < source.size()) {
      c = source[++at];
      if (c == 'n') c = '\n';
      if (c == 't') c = '\t';
    }
    out->push_back(c);
  }
  out->push_back(kJinjaQuote);
  return std::min(at + 1, source.size());
}

}  // namespace

JinjaText::JinjaText(absl::string_view source) {
  bool in_block = false;
  for (size_t i = 0; i < source.size();) {
    const absl::string_view rest = source.substr(i);
    if (!in_block && absl::StartsWith(rest, "{#")) {
      const size_t end = rest.find("#}");
      if (end == absl::string_view::npos) return;
      i += end + 2;
    } else if (in_block && (rest[0] == '\'' || rest[0] == '"')) {
      i = AppendLiteral(source, i, &text);
    } else {
      if (absl::StartsWith(rest, "{{") || absl::StartsWith(rest, "{%")) in_block = true;
      if (absl::StartsWith(rest, "}}") || absl::StartsWith(rest, "%}")) in_block = false;
      text.push_back(rest[0]);
      ++i;
    }
  }
}

bool JinjaText::Contains(absl::string_view part) const { return absl::StrContains(text, part); }

std::string JinjaText::Between(absl::string_view before, absl::string_view after) const {
  const absl::string_view all = text;
  for (size_t at = all.find(before); at != absl::string_view::npos; at = all.find(before, at + 1)) {
    const absl::string_view rest = all.substr(at + before.size());
    const size_t end = rest.find(after);
    if (end == absl::string_view::npos) break;
    const absl::string_view between = rest.substr(0, end);
    if (!between.empty() && !absl::StrContains(between, kJinjaQuote)) return std::string(between);
  }
  return "";
}

std::vector<std::string> JinjaText::LiteralsWith(absl::string_view part) const {
  std::vector<std::string> found;
  const std::vector<std::string> pieces = absl::StrSplit(text, kJinjaQuote);
  for (size_t i = 1; i < pieces.size(); i += 2) {
    const bool is_new = std::find(found.begin(), found.end(), pieces[i]) == found.end();
    if (absl::StrContains(pieces[i], part) && is_new) found.push_back(pieces[i]);
  }
  return found;
}

std::vector<std::vector<std::string>> JinjaText::PrintedWith(absl::string_view part) const {
  std::vector<std::vector<std::string>> found;
  const absl::string_view all = text;
  for (size_t at = all.find("{{"); at != absl::string_view::npos; at = all.find("{{", at + 1)) {
    const size_t end = all.find("}}", at);
    if (end == absl::string_view::npos) break;
    absl::string_view inside = all.substr(at + 2, end - at - 2);
    absl::ConsumePrefix(&inside, "-");
    absl::ConsumeSuffix(&inside, "-");
    if (!absl::StrContains(inside, part)) continue;
    std::vector<std::string> terms(1);
    bool in_literal = false;
    for (const char c : inside) {
      if (c == kJinjaQuote) in_literal = !in_literal;
      if (c == '+' && !in_literal) {
        terms.emplace_back();
      } else {
        terms.back().push_back(c);
      }
    }
    for (std::string& term : terms) {
      // Blanks inside literals count; those around them do not.
      absl::StripAsciiWhitespace(&term);
    }
    found.push_back(std::move(terms));
  }
  return found;
}

bool ParseJinjaLiteral(absl::string_view term, std::string* literal) {
  if (term.size() < 2 || term.front() != kJinjaQuote || term.back() != kJinjaQuote) return false;
  const absl::string_view inside = term.substr(1, term.size() - 2);
  if (absl::StrContains(inside, kJinjaQuote)) return false;
  *literal = std::string(inside);
  return true;
}

}  // namespace flexquant
