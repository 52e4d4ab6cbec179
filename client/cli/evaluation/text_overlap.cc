#include "client/cli/evaluation/text_overlap.h"

#include <algorithm>
#include <cstddef>
#include <set>

#include "absl/strings/ascii.h"

namespace flexquant::cli {

std::vector<std::string> Words(const std::string& text) {
  std::vector<std::string> words;
  bool inside = false;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool part = absl::ascii_isalnum(byte) || byte >= 0x80;
    if (part && !inside) {
      words.emplace_back();
    }
    if (part) {
      words.back().push_back(absl::ascii_tolower(byte));
    }
    inside = part;
  }
  return words;
}

double RougeL(const std::vector<std::string>& words, const std::vector<std::string>& reference) {
  if (words.empty() && reference.empty()) {
    return 1;
  }
  std::vector<size_t> longest(reference.size() + 1);  // of the words so far and each beginning of the reference
  for (const std::string& word : words) {
    size_t diagonal = 0;
    for (size_t j = 1; j <= reference.size(); ++j) {
      const size_t above = longest[j];
      longest[j] = word == reference[j - 1] ? diagonal + 1 : std::max(longest[j], longest[j - 1]);
      diagonal = above;
    }
  }
  return 2 * static_cast<double>(longest.back()) / static_cast<double>(words.size() + reference.size());
}

double RepeatedShare(const std::vector<std::string>& words) {
  constexpr size_t kRun = 4;
  if (words.size() < kRun) {
    return 0;
  }
  std::set<std::vector<std::string>> seen;
  const size_t runs = words.size() - kRun + 1;
  for (size_t i = 0; i < runs; ++i) {
    const auto begin = words.begin() + static_cast<std::ptrdiff_t>(i);
    seen.emplace(begin, begin + kRun);
  }
  return static_cast<double>(runs - seen.size()) / static_cast<double>(runs);
}

}  // namespace flexquant::cli
