#include "client/cli/text_windows.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"
#include "common/tokenizer/tokenizer.h"

namespace flexquant::cli {

absl::StatusOr<std::vector<std::vector<uint32_t>>> MakeWindows(const TextWindowOptions& options,
                                                               const ModelStore& store) {
  FQ_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(store.folder()));
  FQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(options.text));
  auto encoded = tokenizer->Encode(text, {});
  if (!encoded.ok()) {
    return absl::Status(encoded.status().code(),
                        absl::StrCat(options.text, ": ", std::string(encoded.status().message())));
  }
  absl::Span<const uint32_t> ids = *encoded;
  if (options.max_tokens > 0) {
    ids = ids.subspan(0, options.max_tokens);
  }
  const size_t bos = tokenizer->adds_bos() ? 1 : 0;
  if (options.window + bos > static_cast<size_t>(store.config().max_context)) {
    return absl::InvalidArgumentError(absl::StrCat("--window is ", options.window, "; the model's context allows 2 to ",
                                                   static_cast<size_t>(store.config().max_context) - bos, " tokens"));
  }
  std::vector<std::vector<uint32_t>> windows;
  for (size_t begin = 0; begin < ids.size(); begin += options.window) {
    const auto part = ids.subspan(begin, options.window);
    std::vector<uint32_t> window(part.begin(), part.end());
    if (bos == 1) {
      window.insert(window.begin(), static_cast<uint32_t>(tokenizer->bos_id()));
    }
    // The first token of a window is not scored.
    if (window.size() >= 2) {
      windows.push_back(std::move(window));
    }
  }
  if (windows.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.text, " has ", ids.size(), " tokens; at least 2 are needed"));
  }
  return windows;
}

}  // namespace flexquant::cli
