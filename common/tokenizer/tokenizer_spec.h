#ifndef FLEXQUANT_COMMON_TOKENIZER_TOKENIZER_SPEC_H_
#define FLEXQUANT_COMMON_TOKENIZER_TOKENIZER_SPEC_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/formats/gguf.h"

namespace flexquant {

// GGUF's numbers.
enum class TokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,      // stands for what the vocabulary lacks; written as nothing
  kControl = 3,      // written as nothing; read from text only with parse_special
  kUserDefined = 4,  // ordinary text that is always one token
  kUnused = 5,
  kByte = 6,  // "<0x0A>"
};

struct TokenEntry {
  std::string text;  // as in the file: byte-level alphabet or U+2581 for spaces
  TokenType type = TokenType::kNormal;
  bool strip_left = false;   // white space before the token belongs to it
  bool strip_right = false;  // and after it
};

// What a vocabulary file says, in one form for all kinds of file.
struct TokenizerSpec {
  enum class SpacePrefix {
    kNever,
    kFirstIfMissing,   // text's start, unless a space stands there
    kAlways,           // start, and after each special token
    kAlwaysIfMissing,  // the same, unless a space stands there
  };

  bool byte_level = false;  // else SentencePiece
  std::vector<TokenEntry> tokens;
  std::vector<float> scores;                                // SentencePiece without merges: one a token, not NaN
  std::vector<std::pair<std::string, std::string>> merges;  // best first; texts as in the file
  std::vector<std::string> patterns;                        // byte-level: see PreTokenizer
  bool ignore_merges = false;                               // a word that is a token is taken whole
  bool escape_space = false;                                // SentencePiece: U+2581 in token texts means a space
  bool fuse_unknown = true;                                 // SentencePiece: neighbouring unknowns are one token
  bool normalize_nfc = false;
  SpacePrefix space_prefix = SpacePrefix::kNever;
  bool strips_first_space = false;  // when decoding

  bool add_bos = false;
  bool add_eos = false;
  int64_t bos_id = -1;
  int64_t eos_id = -1;
  int64_t unknown_id = -1;
  std::vector<uint32_t> end_ids;  // further ids that end an answer
  std::string chat_template;
};

// Most tokens a vocabulary may have (the largest published ones have 262,144), and most bytes of a special one.
constexpr uint32_t kMaxVocabularySize = 1u << 21;
constexpr size_t kMaxSpecialBytes = 256;

// Errors as Tokenizer::Load says.
absl::StatusOr<TokenizerSpec> SpecFromGguf(const GgufFile& file);
// `config_json` (tokenizer_config.json) may be empty; `name` is only named in errors.
absl::StatusOr<TokenizerSpec> SpecFromHuggingFace(absl::string_view tokenizer_json, absl::string_view config_json,
                                                  const std::string& name);

// Marks the known begin, end and turn tokens as control tokens even where the file calls them ordinary, adds the
// end-of-turn ones to end_ids, and checks counts and ids. INVALID_ARGUMENT says what is wrong.
absl::Status FinishSpec(TokenizerSpec* spec);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_TOKENIZER_TOKENIZER_SPEC_H_
