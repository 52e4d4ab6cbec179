#ifndef FLEXQUANT_COMMON_TOKENIZER_PRE_TOKENIZER_H_
#define FLEXQUANT_COMMON_TOKENIZER_PRE_TOKENIZER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace flexquant {

// Patterns of the published pre-tokenizers.
extern const char kGpt2Pattern[];
extern const char kLlama3Pattern[];
extern const char kQwen2Pattern[];
extern const char kSingleDigitPattern[];

// Patterns of a GGUF file's `tokenizer.ggml.pre`. UNIMPLEMENTED lists the known names.
absl::StatusOr<std::vector<std::string>> PatternsOfPreTokenizer(absl::string_view name);

// Cuts text into the words that byte pair encoding works on: each pattern in turn isolates its matches in the pieces
// the ones before it left; nothing is dropped. Immutable, thread-safe.
class PreTokenizer {
 public:
  // INVALID_ARGUMENT: a pattern that does not compile.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> Create(const std::vector<std::string>& patterns);
  ~PreTokenizer();

  // Pieces of `text` (valid UTF-8) in order; views into it. RESOURCE_EXHAUSTED: a pattern backtracks without end.
  absl::StatusOr<std::vector<absl::string_view>> Split(absl::string_view text) const;

 private:
  class Pattern;
  PreTokenizer();
  std::vector<std::unique_ptr<Pattern>> patterns_;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_TOKENIZER_PRE_TOKENIZER_H_
