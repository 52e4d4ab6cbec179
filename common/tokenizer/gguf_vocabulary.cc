#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/tokenizer/pre_tokenizer.h"
#include "common/tokenizer/tokenizer_spec.h"

namespace flexquant {
namespace {

absl::StatusOr<bool> BoolOr(const GgufFile& file, absl::string_view key, bool otherwise) {
  if (!file.Has(key)) return otherwise;
  return file.GetBool(key);
}

absl::StatusOr<int64_t> IdOr(const GgufFile& file, absl::string_view key, int64_t otherwise) {
  if (!file.Has(key)) return otherwise;
  FQ_ASSIGN_OR_RETURN(const int64_t id, file.GetInt64(key));
  // Converters write 2^32 - 1 for "none".
  return id == 0xFFFFFFFFll ? -1 : id;
}

absl::Status ReadTokens(const GgufFile& file, TokenizerSpec* spec) {
  FQ_ASSIGN_OR_RETURN(std::vector<std::string> texts, file.GetStringArray("tokenizer.ggml.tokens"));
  std::vector<int64_t> types;
  if (file.Has("tokenizer.ggml.token_type")) {
    FQ_ASSIGN_OR_RETURN(types, file.GetIntArray("tokenizer.ggml.token_type"));
    if (types.size() != texts.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.ggml.token_type has ", types.size(), " values for ", texts.size(), " tokens"));
    }
  }
  spec->tokens.resize(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    spec->tokens[i].text = std::move(texts[i]);
    if (types.empty() || types[i] == 0) continue;
    if (types[i] < 0 || types[i] > 6) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.ggml.token_type of token ", i, " is ", types[i], "; allowed are 0 to 6"));
    }
    spec->tokens[i].type = static_cast<TokenType>(types[i]);
  }
  return absl::OkStatus();
}

absl::Status ReadByteLevel(const GgufFile& file, TokenizerSpec* spec) {
  spec->byte_level = true;
  std::string pre = "default";
  if (file.Has("tokenizer.ggml.pre")) {
    FQ_ASSIGN_OR_RETURN(pre, file.GetString("tokenizer.ggml.pre"));
  }
  FQ_ASSIGN_OR_RETURN(spec->patterns, PatternsOfPreTokenizer(pre));
  const bool is_llama3 = spec->patterns.front() == kLlama3Pattern;
  spec->ignore_merges = is_llama3;
  FQ_ASSIGN_OR_RETURN(const std::vector<std::string> merges, file.GetStringArray("tokenizer.ggml.merges"));
  spec->merges.reserve(merges.size());
  for (const std::string& merge : merges) {
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.ggml.merges holds '", merge, "'; each must be two parts and a space between"));
    }
    spec->merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  FQ_ASSIGN_OR_RETURN(spec->add_bos, BoolOr(file, "tokenizer.ggml.add_bos_token", is_llama3));
  FQ_ASSIGN_OR_RETURN(const bool prefix, BoolOr(file, "tokenizer.ggml.add_space_prefix", false));
  if (prefix) spec->space_prefix = TokenizerSpec::SpacePrefix::kFirstIfMissing;
  return absl::OkStatus();
}

absl::Status ReadSentencePiece(const GgufFile& file, TokenizerSpec* spec) {
  spec->escape_space = true;
  FQ_ASSIGN_OR_RETURN(spec->scores, file.GetFloatArray("tokenizer.ggml.scores"));
  FQ_ASSIGN_OR_RETURN(spec->add_bos, BoolOr(file, "tokenizer.ggml.add_bos_token", true));
  FQ_ASSIGN_OR_RETURN(const bool prefix, BoolOr(file, "tokenizer.ggml.add_space_prefix", true));
  if (prefix) spec->space_prefix = TokenizerSpec::SpacePrefix::kAlways;
  spec->strips_first_space = prefix;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> SpecFromGguf(const GgufFile& file) {
  TokenizerSpec spec;
  if (!file.Has("tokenizer.ggml.model")) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.path(), " holds no vocabulary (tokenizer.ggml.model is missing); use a file with the tokenizer inside"));
  }
  FQ_ASSIGN_OR_RETURN(const std::string model, file.GetString("tokenizer.ggml.model"));
  FQ_RETURN_IF_ERROR(ReadTokens(file, &spec));
  if (model == "gpt2") {
    FQ_RETURN_IF_ERROR(ReadByteLevel(file, &spec));
  } else if (model == "llama") {
    FQ_RETURN_IF_ERROR(ReadSentencePiece(file, &spec));
  } else {
    return absl::UnimplementedError(absl::StrCat("tokenizer model '", model, "' (tokenizer.ggml.model in ", file.path(),
                                                 ") is not supported; supported are gpt2 (byte-level BPE) and llama "
                                                 "(SentencePiece BPE)"));
  }
  // Llama files of early converters leave the ids out; these are SentencePiece's own.
  const bool sentence_piece = !spec.byte_level;
  FQ_ASSIGN_OR_RETURN(spec.bos_id, IdOr(file, "tokenizer.ggml.bos_token_id", sentence_piece ? 1 : -1));
  FQ_ASSIGN_OR_RETURN(spec.eos_id, IdOr(file, "tokenizer.ggml.eos_token_id", sentence_piece ? 2 : -1));
  // Byte-level files name some token, but the models were trained with unknown bytes left out.
  if (sentence_piece) {
    FQ_ASSIGN_OR_RETURN(spec.unknown_id, IdOr(file, "tokenizer.ggml.unknown_token_id", 0));
  }
  FQ_ASSIGN_OR_RETURN(spec.add_eos, BoolOr(file, "tokenizer.ggml.add_eos_token", false));
  for (const absl::string_view key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    FQ_ASSIGN_OR_RETURN(const int64_t id, IdOr(file, key, -1));
    if (id < 0) continue;
    if (id >= static_cast<int64_t>(spec.tokens.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat(key, " is ", id, "; it must be below the vocabulary's size, ", spec.tokens.size()));
    }
    spec.end_ids.push_back(static_cast<uint32_t>(id));
  }
  if (file.Has("tokenizer.chat_template")) {
    FQ_ASSIGN_OR_RETURN(spec.chat_template, file.GetString("tokenizer.chat_template"));
  }
  FQ_RETURN_IF_ERROR(FinishSpec(&spec));
  return spec;
}

}  // namespace flexquant
