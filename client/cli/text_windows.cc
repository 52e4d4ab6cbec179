#include "client/cli/text_windows.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"
#include "common/tokenizer/tokenizer.h"

namespace flexquant::cli {

absl::StatusOr<TokenizedText> TokenizedText::Read(const std::string& path, const ModelStore& store) {
  FQ_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(store.folder()));
  TokenizedText result;
  FQ_ASSIGN_OR_RETURN(result.text_, ReadFile(path));
  auto encoded = tokenizer->Encode(result.text_, {});
  if (!encoded.ok()) {
    return absl::Status(encoded.status().code(), absl::StrCat(path, ": ", std::string(encoded.status().message())));
  }
  result.ids_ = *std::move(encoded);
  if (tokenizer->adds_bos()) {
    result.bos_ = static_cast<uint32_t>(tokenizer->bos_id());
  }
  result.max_context_ = static_cast<size_t>(store.config().max_context);
  return result;
}

absl::Status TokenizedText::CheckWindow(size_t length) const {
  const size_t bos = bos_.has_value() ? 1 : 0;
  if (length + bos > max_context_) {
    return absl::InvalidArgumentError(
        absl::StrCat("--window is ", length, "; the model's context allows 2 to ", max_context_ - bos, " tokens"));
  }
  return absl::OkStatus();
}

std::vector<uint32_t> TokenizedText::Window(size_t begin, size_t length) const {
  std::vector<uint32_t> window;
  if (bos_.has_value()) {
    window.push_back(*bos_);
  }
  const auto part = absl::MakeConstSpan(ids_).subspan(begin, length);
  window.insert(window.end(), part.begin(), part.end());
  return window;
}

std::vector<std::vector<uint32_t>> TokenizedText::SpreadWindows(size_t count, size_t length) const {
  const size_t available = ids_.size() / length;
  std::vector<std::vector<uint32_t>> windows;
  for (size_t i = 0; i < count; ++i) {
    windows.push_back(Window(i * available / count * length, length));
  }
  return windows;
}

absl::StatusOr<std::vector<std::vector<uint32_t>>> MakeWindows(const TextWindowOptions& options,
                                                               const ModelStore& store) {
  FQ_ASSIGN_OR_RETURN(const TokenizedText text, TokenizedText::Read(options.text, store));
  FQ_RETURN_IF_ERROR(text.CheckWindow(options.window));
  const size_t all = text.ids().size();
  const size_t end = options.max_tokens > 0 ? std::min(options.max_tokens, all) : all;
  std::vector<std::vector<uint32_t>> windows;
  for (size_t begin = 0; begin < end; begin += options.window) {
    std::vector<uint32_t> window = text.Window(begin, std::min(options.window, end - begin));
    // The first token of a window is not scored.
    if (window.size() >= 2) {
      windows.push_back(std::move(window));
    }
  }
  if (windows.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(options.text, " has ", end, " tokens; at least 2 are needed"));
  }
  return windows;
}

}  // namespace flexquant::cli
