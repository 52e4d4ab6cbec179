#include "common/tokenizer/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/tokenizer/utf8.h"

namespace flexquant {

const char kGpt2Pattern[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
#define FQ_WORDS_BEFORE_DIGITS R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)"
#define FQ_WORDS_AFTER_DIGITS R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
const char kLlama3Pattern[] = FQ_WORDS_BEFORE_DIGITS R"(\p{N}{1,3})" FQ_WORDS_AFTER_DIGITS;
const char kQwen2Pattern[] = FQ_WORDS_BEFORE_DIGITS R"(\p{N})" FQ_WORDS_AFTER_DIGITS;
#undef FQ_WORDS_BEFORE_DIGITS
#undef FQ_WORDS_AFTER_DIGITS
const char kSingleDigitPattern[] = R"(\p{N})";

namespace {

// Compiled code keeps its size in 16 bits, and no published pattern is near this.
constexpr size_t kMaxPatternBytes = 4096;
constexpr size_t kJitStackStart = 32 * 1024;
constexpr size_t kJitStackMax = 4 * 1024 * 1024;
constexpr uint32_t kBaseMatchLimit = 10'000'000;

// PCRE2's \s takes U+180E, which Unicode's White_Space (what tokenizers were trained with) does not.
std::string WithUnicodeSpaces(absl::string_view pattern) {
  constexpr absl::string_view kSpaces = R"(\x09-\x0d\x{85}\p{Z})";
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char next = pattern[++i];
      if (next == 's') {
        absl::StrAppend(&out, in_class ? "" : "[", kSpaces, in_class ? "" : "]");
      } else if (next == 'S' && !in_class) {
        absl::StrAppend(&out, "[^", kSpaces, "]");
      } else {
        out.push_back(c);
        out.push_back(next);
      }
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out.push_back(c);
  }
  return out;
}

struct MatchState {
  MatchState() = default;
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;
  ~MatchState() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  pcre2_match_data* data = nullptr;
  pcre2_match_context* context = nullptr;
  pcre2_jit_stack* stack = nullptr;
};

}  // namespace

class PreTokenizer::Pattern {
 public:
  static absl::StatusOr<std::unique_ptr<Pattern>> Compile(const std::string& source) {
    if (source.size() > kMaxPatternBytes) {
      return absl::InvalidArgumentError(absl::StrCat("pre-tokenizer pattern has ", source.size(), " bytes; at most ",
                                                     kMaxPatternBytes, " are allowed"));
    }
    const std::string pattern = WithUnicodeSpaces(source);
    int error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
    if (code == nullptr) {
      PCRE2_UCHAR message[256];
      pcre2_get_error_message(error, message, sizeof(message));
      return absl::InvalidArgumentError(absl::StrCat("pre-tokenizer pattern '", source, "' does not compile: ",
                                                     reinterpret_cast<const char*>(message), " near offset ", offset));
    }
    // Without JIT (hardened kernels, other processors) matching goes on interpreted.
    const bool has_jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
    return std::unique_ptr<Pattern>(new Pattern(code, has_jit, source));
  }
  ~Pattern() { pcre2_code_free(code_); }
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  absl::Status Split(const std::vector<absl::string_view>& pieces, std::vector<absl::string_view>* out) const {
    MatchState state;
    state.data = pcre2_match_data_create_from_pattern(code_, nullptr);
    state.context = pcre2_match_context_create(nullptr);
    if (has_jit_) state.stack = pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr);
    if (state.data == nullptr || state.context == nullptr || (has_jit_ && state.stack == nullptr)) {
      return absl::ResourceExhaustedError("no memory for pre-tokenizer matching");
    }
    if (has_jit_) pcre2_jit_stack_assign(state.context, nullptr, state.stack);
    for (const absl::string_view piece : pieces) FQ_RETURN_IF_ERROR(SplitPiece(piece, &state, out));
    return absl::OkStatus();
  }

 private:
  Pattern(pcre2_code* code, bool has_jit, std::string source)
      : code_(code), has_jit_(has_jit), source_(std::move(source)) {}

  absl::Status SplitPiece(absl::string_view piece, MatchState* state, std::vector<absl::string_view>* out) const {
    // A run of n spaces may backtrack n times before another alternative takes it.
    const uint64_t limit = kBaseMatchLimit + 4 * static_cast<uint64_t>(piece.size());
    pcre2_set_match_limit(state->context, static_cast<uint32_t>(std::min<uint64_t>(limit, UINT32_MAX)));
    const auto subject = reinterpret_cast<PCRE2_SPTR>(piece.data());
    size_t start = 0;  // of what is not yet given out
    size_t from = 0;
    while (from < piece.size()) {
      int rc = pcre2_match(code_, subject, piece.size(), from, PCRE2_NO_UTF_CHECK, state->data, state->context);
      if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
        rc = pcre2_match(code_, subject, piece.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, state->data,
                         state->context);
      }
      if (rc == PCRE2_ERROR_NOMATCH) break;
      if (rc < 0) {
        return absl::ResourceExhaustedError(absl::StrCat("pre-tokenizer pattern '", source_, "' gave up at byte ", from,
                                                         " of ", piece.size(), " (PCRE2 error ", rc,
                                                         "); send shorter text"));
      }
      const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(state->data);
      if (bounds[1] <= bounds[0] || bounds[0] < from) {
        from += ReadUtf8(piece, from).length;
        continue;
      }
      if (bounds[0] > start) out->push_back(piece.substr(start, bounds[0] - start));
      out->push_back(piece.substr(bounds[0], bounds[1] - bounds[0]));
      start = from = bounds[1];
    }
    if (start < piece.size()) out->push_back(piece.substr(start));
    return absl::OkStatus();
  }

  pcre2_code* code_;
  bool has_jit_;
  std::string source_;
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Create(const std::vector<std::string>& patterns) {
  std::unique_ptr<PreTokenizer> result(new PreTokenizer);
  for (const std::string& pattern : patterns) {
    FQ_ASSIGN_OR_RETURN(auto compiled, Pattern::Compile(pattern));
    result->patterns_.push_back(std::move(compiled));
  }
  return result;
}

absl::StatusOr<std::vector<absl::string_view>> PreTokenizer::Split(absl::string_view text) const {
  std::vector<absl::string_view> pieces;
  if (!text.empty()) pieces.push_back(text);
  for (const auto& pattern : patterns_) {
    std::vector<absl::string_view> next;
    next.reserve(text.size() / 4 + 1);
    FQ_RETURN_IF_ERROR(pattern->Split(pieces, &next));
    pieces = std::move(next);
  }
  return pieces;
}

absl::StatusOr<std::vector<std::string>> PatternsOfPreTokenizer(absl::string_view name) {
  using Patterns = std::vector<std::string>;
  if (name == "llama-bpe" || name == "llama3" || name == "llama-v3") return Patterns{kLlama3Pattern};
  if (name == "gpt-2") return Patterns{kGpt2Pattern};
  if (name == "qwen2" || name == "deepseek-r1-qwen") return Patterns{kQwen2Pattern};
  if (name == "smollm") return Patterns{kSingleDigitPattern, kGpt2Pattern};
  if (name == "default") {
    return Patterns{R"([\p{P}\$\+<=>\^~\|]+)", kGpt2Pattern, R"(\p{N}+)", "[0-9][0-9][0-9]"};
  }
  return absl::UnimplementedError(
      absl::StrCat("pre-tokenizer '", name,
                   "' (tokenizer.ggml.pre) is not supported; supported are llama-bpe, llama3, "
                   "llama-v3, gpt-2, qwen2, deepseek-r1-qwen, smollm and default; convert the model from its Hugging "
                   "Face folder (tokenizer.json) instead"));
}

}  // namespace flexquant
