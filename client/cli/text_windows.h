#ifndef FLEXQUANT_CLIENT_CLI_TEXT_WINDOWS_H_
#define FLEXQUANT_CLIENT_CLI_TEXT_WINDOWS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/store/model_store.h"

namespace flexquant::cli {

// A text in a model's tokens, to be read window by window.
class TokenizedText {
 public:
  // Errors of ReadFile; those of the tokenizer name `path`.
  static absl::StatusOr<TokenizedText> Read(const std::string& path, const ModelStore& store);

  const std::string& text() const { return text_; }
  const std::vector<uint32_t>& ids() const { return ids_; }
  // INVALID_ARGUMENT if windows of `length` tokens, and BOS, do not fit the model's context.
  absl::Status CheckWindow(size_t length) const;
  // Tokens [begin, begin + length) or what there is of them, begun with BOS where the model's texts are.
  std::vector<uint32_t> Window(size_t begin, size_t length) const;
  // `count` windows of `length` tokens, spread evenly over the text, which must have that many tokens.
  std::vector<std::vector<uint32_t>> SpreadWindows(size_t count, size_t length) const;

 private:
  std::string text_;
  std::vector<uint32_t> ids_;
  std::optional<uint32_t> bos_;
  size_t max_context_ = 0;
};

struct TextWindowOptions {
  std::string text;       // file of UTF-8 text
  size_t window = 512;    // tokens read together
  size_t max_tokens = 0;  // only so many of the text; 0 = all
};

// The text cut into windows without overlap, each begun with BOS where the model's texts are; a last one of one token
// is left out. INVALID_ARGUMENT if a window does not fit the context or there is none.
absl::StatusOr<std::vector<std::vector<uint32_t>>> MakeWindows(const TextWindowOptions& options,
                                                               const ModelStore& store);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_TEXT_WINDOWS_H_
