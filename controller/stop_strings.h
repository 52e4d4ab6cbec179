#ifndef FLEXQUANT_CONTROLLER_STOP_STRINGS_H_
#define FLEXQUANT_CONTROLLER_STOP_STRINGS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace flexquant::controller {

// Ends a text before the first stop string, wherever the tokens' boundaries fall. One an answer; not thread-safe.
class StopStringMatcher {
 public:
  // Every stop string is not empty.
  explicit StopStringMatcher(std::vector<std::string> stop_strings);

  struct Output {
    std::string text;                  // safe to send: no stop string can begin in it
    std::optional<std::string> match;  // the stop string found; the text before it is in `text`, the rest is dropped
  };
  // Takes more text; what may still become a stop string is held back. Not to be called after a match. Of several stop
  // strings in reach the one that is complete first wins, then the one that begins first.
  Output Append(absl::string_view text);
  // The held-back text, once no more will come.
  std::string Finish();

 private:
  const std::vector<std::string> stop_strings_;
  std::string held_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_CONTROLLER_STOP_STRINGS_H_
