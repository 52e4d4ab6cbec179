#ifndef FLEXQUANT_COMMON_TOKENIZER_BPE_TOKENIZER_H_
#define FLEXQUANT_COMMON_TOKENIZER_BPE_TOKENIZER_H_

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/tokenizer/bpe_merger.h"
#include "common/tokenizer/pre_tokenizer.h"
#include "common/tokenizer/special_tokens.h"
#include "common/tokenizer/tokenizer.h"
#include "common/tokenizer/tokenizer_spec.h"

namespace flexquant {

// Both kinds of byte pair encoding: they differ in how text is cut into words, in the first symbols, and in where the
// merges come from. Bytes that a byte-level vocabulary lacks, and that have no unknown token, are left out, as in the
// reference implementations.
class BpeTokenizer final : public Tokenizer {
 public:
  // `spec` went through FinishSpec. INVALID_ARGUMENT: a merge of no tokens, a pattern that does not compile.
  static absl::StatusOr<std::unique_ptr<BpeTokenizer>> Create(TokenizerSpec spec);

  absl::StatusOr<std::vector<uint32_t>> Encode(absl::string_view text, const EncodeOptions& options) const override;
  std::string TokenBytes(uint32_t id, bool render_special) const override;
  std::string Decode(const std::vector<uint32_t>& ids, bool render_special) const override;
  uint32_t vocab_size() const override { return static_cast<uint32_t>(bytes_.size()); }
  bool adds_bos() const override { return spec_.add_bos; }
  int64_t bos_id() const override { return spec_.bos_id; }
  const std::vector<uint32_t>& eos_ids() const override { return spec_.end_ids; }
  bool IsSpecial(uint32_t id) const override;
  int64_t SpecialId(absl::string_view text) const override { return specials_.Find(text); }
  const std::string& chat_template() const override { return spec_.chat_template; }

 private:
  struct EncodeState;

  explicit BpeTokenizer(TokenizerSpec spec) : spec_(std::move(spec)) {}
  void IndexTokens();
  absl::Status AddListedMerges();
  void AddScoredMerges();
  uint32_t Lookup(absl::string_view bytes) const;
  std::string FileTextToBytes(const TokenEntry& token) const;

  absl::Status EncodeText(absl::string_view text, bool at_start, EncodeState* state) const;
  void EncodeWord(absl::string_view word, EncodeState* state) const;
  void AppendSymbols(absl::string_view word, std::vector<uint32_t>* symbols) const;
  std::vector<absl::string_view> SplitAtSpaces(absl::string_view text) const;

  TokenizerSpec spec_;
  std::vector<std::string> bytes_;                            // of each token, spaces unescaped
  absl::flat_hash_map<absl::string_view, uint32_t> by_text_;  // mergeable tokens; keys point into bytes_
  std::array<uint32_t, 256> byte_ids_{};
  SpecialTokens specials_;
  BpeMerger merger_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;  // byte-level
  bool words_end_at_spaces_ = false;             // SentencePiece: no token spans "x y"
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_TOKENIZER_BPE_TOKENIZER_H_
