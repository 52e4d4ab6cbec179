#include "controller/stop_strings.h"

#include <algorithm>
#include <utility>

namespace flexquant::controller {
namespace {

// Length of the longest suffix of `text` that begins `stop` without completing it.
size_t PartialMatch(const std::string& text, const std::string& stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (text.compare(text.size() - length, length, stop, 0, length) == 0) {
      return length;
    }
  }
  return 0;
}

}  // namespace

StopStringMatcher::StopStringMatcher(std::vector<std::string> stop_strings) : stop_strings_(std::move(stop_strings)) {}

StopStringMatcher::Output StopStringMatcher::Append(absl::string_view text) {
  held_.append(text.data(), text.size());
  Output output;
  size_t match_begin = std::string::npos;
  size_t match_end = std::string::npos;
  size_t keep = 0;
  for (const std::string& stop : stop_strings_) {
    const size_t begin = held_.find(stop);
    if (begin != std::string::npos) {
      const size_t end = begin + stop.size();
      if (end < match_end || (end == match_end && begin < match_begin)) {
        match_begin = begin;
        match_end = end;
        output.match = stop;
      }
    }
    keep = std::max(keep, PartialMatch(held_, stop));
  }
  if (output.match.has_value()) {
    output.text = held_.substr(0, match_begin);
    held_.clear();
    return output;
  }
  output.text = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return output;
}

std::string StopStringMatcher::Finish() { return std::exchange(held_, std::string()); }

}  // namespace flexquant::controller
