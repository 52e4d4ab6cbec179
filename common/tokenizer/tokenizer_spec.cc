#include "common/tokenizer/tokenizer_spec.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

// Turn and end markers of the supported families. Files that list them as ordinary tokens would otherwise let a user
// write them.
constexpr absl::string_view kControlTexts[] = {"<|im_start|>",
                                               "<|im_end|>",
                                               "<|endoftext|>",
                                               "<|begin_of_text|>",
                                               "<|end_of_text|>",
                                               "<|start_header_id|>",
                                               "<|end_header_id|>",
                                               "<|eot_id|>",
                                               "<|eom_id|>",
                                               "<s>",
                                               "</s>",
                                               "[INST]",
                                               "[/INST]"};
constexpr absl::string_view kEndTexts[] = {"<|im_end|>",    "<|eot_id|>",      "<|eom_id|>",
                                           "<|endoftext|>", "<|end_of_text|>", "</s>"};

template <size_t N>
bool Contains(const absl::string_view (&texts)[N], absl::string_view text) {
  return std::find(std::begin(texts), std::end(texts), text) != std::end(texts);
}

absl::Status CheckId(absl::string_view what, int64_t id, size_t vocabulary) {
  if (id < -1 || id >= static_cast<int64_t>(vocabulary)) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " is ", id, "; it must be below the vocabulary's size, ", vocabulary));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status FinishSpec(TokenizerSpec* spec) {
  const size_t count = spec->tokens.size();
  if (count == 0 || count > kMaxVocabularySize) {
    return absl::InvalidArgumentError(
        absl::StrCat("vocabulary has ", count, " tokens; 1 to ", kMaxVocabularySize, " are allowed"));
  }
  FQ_RETURN_IF_ERROR(CheckId("begin-of-sequence id", spec->bos_id, count));
  FQ_RETURN_IF_ERROR(CheckId("end-of-sequence id", spec->eos_id, count));
  FQ_RETURN_IF_ERROR(CheckId("unknown-token id", spec->unknown_id, count));
  if (spec->add_bos && spec->bos_id < 0) {
    return absl::InvalidArgumentError("the vocabulary wants a begin-of-sequence token but names none");
  }
  if (spec->add_eos && spec->eos_id < 0) {
    return absl::InvalidArgumentError("the vocabulary wants an end-of-sequence token but names none");
  }
  if (!spec->scores.empty() && spec->scores.size() != count) {
    return absl::InvalidArgumentError(
        absl::StrCat("vocabulary has ", count, " tokens but ", spec->scores.size(), " scores"));
  }
  if (std::any_of(spec->scores.begin(), spec->scores.end(), [](float s) { return std::isnan(s); })) {
    return absl::InvalidArgumentError("a token's score is not a number");
  }
  if (spec->eos_id >= 0) spec->end_ids.insert(spec->end_ids.begin(), static_cast<uint32_t>(spec->eos_id));
  for (uint32_t id = 0; id < count; ++id) {
    TokenEntry& token = spec->tokens[id];
    // A byte-level vocabulary may have learned "</s>" from web pages as an ordinary token.
    const bool may_be_control =
        token.type == TokenType::kUserDefined ||
        (token.type == TokenType::kNormal && (!spec->byte_level || absl::StartsWith(token.text, "<|")));
    if (may_be_control && Contains(kControlTexts, token.text)) token.type = TokenType::kControl;
    if (token.type == TokenType::kControl && Contains(kEndTexts, token.text)) spec->end_ids.push_back(id);
    const bool is_special =
        token.type == TokenType::kControl || token.type == TokenType::kUserDefined || token.type == TokenType::kUnknown;
    if (is_special && token.text.size() > kMaxSpecialBytes) {
      return absl::InvalidArgumentError(absl::StrCat("special token ", id, " has ", token.text.size(),
                                                     " bytes; at most ", kMaxSpecialBytes, " are allowed"));
    }
  }
  std::vector<uint32_t> unique;
  for (const uint32_t id : spec->end_ids) {
    if (std::find(unique.begin(), unique.end(), id) == unique.end()) unique.push_back(id);
  }
  spec->end_ids = std::move(unique);
  return absl::OkStatus();
}

}  // namespace flexquant
