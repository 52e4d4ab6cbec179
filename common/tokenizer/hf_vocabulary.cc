#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/tokenizer/pre_tokenizer.h"
#include "common/tokenizer/tokenizer_spec.h"

namespace flexquant {
namespace {

using Json = nlohmann::json;
using SpacePrefix = TokenizerSpec::SpacePrefix;

constexpr char kSpaceMark[] = "\xE2\x96\x81";  // U+2581

// Member of an object, or null.
const Json& Member(const Json& object, const char* key) {
  static const Json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

std::string StringOf(const Json& value) { return value.is_string() ? value.get<std::string>() : std::string(); }

bool BoolOf(const Json& value, bool otherwise) { return value.is_boolean() ? value.get<bool>() : otherwise; }

bool IsNullOrEmpty(const Json& value) {
  return value.is_null() || (value.is_string() && value.get_ref<const std::string&>().empty());
}

// Tokens are written as their text or as an object that holds it.
std::string TokenText(const Json& value) {
  return value.is_object() ? StringOf(Member(value, "content")) : StringOf(value);
}

class Loader {
 public:
  Loader(const Json& tokenizer, const Json& config, const std::string& name)
      : tokenizer_(tokenizer), config_(config), name_(name), model_(Member(tokenizer, "model")) {}

  absl::StatusOr<TokenizerSpec> Load() {
    FQ_RETURN_IF_ERROR(CheckModel());
    FQ_RETURN_IF_ERROR(ReadVocabulary());
    FQ_RETURN_IF_ERROR(ReadAddedTokens());
    FQ_RETURN_IF_ERROR(ReadMerges());
    FQ_RETURN_IF_ERROR(ForEachPart(Member(tokenizer_, "normalizer"), "normalizers", &Loader::ReadNormalizer));
    FQ_RETURN_IF_ERROR(ForEachPart(Member(tokenizer_, "pre_tokenizer"), "pretokenizers", &Loader::ReadPreTokenizer));
    FQ_RETURN_IF_ERROR(ForEachPart(Member(tokenizer_, "decoder"), "decoders", &Loader::ReadDecoder));
    FQ_RETURN_IF_ERROR(ForEachPart(Member(tokenizer_, "post_processor"), "processors", &Loader::ReadPostProcessor));
    if (!spec_.byte_level && !spec_.escape_space) {
      return Unsupported(
          "it is neither byte-level (pre_tokenizer or decoder ByteLevel) nor SentencePiece-like (U+2581 "
          "for spaces)");
    }
    if (spec_.byte_level && spec_.escape_space) return Unsupported("it mixes ByteLevel and U+2581 for spaces");
    ReadConfig();
    FQ_RETURN_IF_ERROR(FinishSpec(&spec_));
    return std::move(spec_);
  }

 private:
  using Reader = absl::Status (Loader::*)(const Json&, const std::string& type);

  absl::Status Unsupported(absl::string_view what) const {
    return absl::UnimplementedError(absl::StrCat(name_, ": ", what,
                                                 "; supported are byte-level and SentencePiece-like BPE; use the "
                                                 "model's GGUF file if there is one"));
  }
  absl::Status Wrong(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(name_, ": ", what, "; download the file again"));
  }

  absl::Status ForEachPart(const Json& part, const char* list, Reader reader) {
    if (part.is_null()) return absl::OkStatus();
    const std::string type = StringOf(Member(part, "type"));
    if (type != "Sequence") return (this->*reader)(part, type);
    const Json& parts = Member(part, list);
    if (!parts.is_array()) return Wrong(absl::StrCat("a Sequence lacks its '", list, "'"));
    for (const Json& item : parts) {
      const std::string item_type = StringOf(Member(item, "type"));
      FQ_RETURN_IF_ERROR((this->*reader)(item, item_type));
    }
    return absl::OkStatus();
  }

  absl::Status CheckModel() {
    const std::string type = StringOf(Member(model_, "type"));
    // Files of 2020 leave the type out of BPE models.
    const bool is_bpe = type == "BPE" || (type.empty() && Member(model_, "merges").is_array());
    if (!is_bpe) return Unsupported(absl::StrCat("model type '", type, "'"));
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!IsNullOrEmpty(Member(model_, key))) return Unsupported(absl::StrCat("model.", key, " is set"));
    }
    spec_.ignore_merges = BoolOf(Member(model_, "ignore_merges"), false);
    spec_.fuse_unknown = BoolOf(Member(model_, "fuse_unk"), false);
    byte_fallback_ = BoolOf(Member(model_, "byte_fallback"), false);
    return absl::OkStatus();
  }

  absl::StatusOr<TokenEntry*> Slot(const Json& id_value) {
    if (!id_value.is_number_unsigned()) return Wrong("a token's id is no natural number");
    const uint64_t id = id_value.get<uint64_t>();
    if (id >= kMaxVocabularySize) {
      return Wrong(absl::StrCat("token id ", id, " is too large; ids must be below ", kMaxVocabularySize));
    }
    // Ids that nothing names stay unused.
    if (id >= spec_.tokens.size()) spec_.tokens.resize(id + 1, {.text = "", .type = TokenType::kUnused});
    return &spec_.tokens[id];
  }

  absl::Status ReadVocabulary() {
    const Json& vocabulary = Member(model_, "vocab");
    if (!vocabulary.is_object() || vocabulary.empty()) return Wrong("model.vocab is no object with tokens");
    for (const auto& [text, id] : vocabulary.items()) {
      FQ_ASSIGN_OR_RETURN(TokenEntry * slot, Slot(id));
      if (slot->type != TokenType::kUnused) return Wrong(absl::StrCat("two tokens share the id ", id.dump()));
      const bool is_byte = byte_fallback_ && text.size() == 6 && absl::StartsWith(text, "<0x") && text[5] == '>';
      *slot = {.text = text, .type = is_byte ? TokenType::kByte : TokenType::kNormal};
    }
    const std::string unknown = StringOf(Member(model_, "unk_token"));
    if (!unknown.empty()) {
      const Json& id = Member(vocabulary, unknown.c_str());
      if (!id.is_number_unsigned()) return Wrong(absl::StrCat("model.unk_token '", unknown, "' is no token"));
      spec_.unknown_id = id.get<int64_t>();
    }
    return absl::OkStatus();
  }

  absl::Status ReadAddedTokens() {
    const Json& added = Member(tokenizer_, "added_tokens");
    if (added.is_null()) return absl::OkStatus();
    if (!added.is_array()) return Wrong("added_tokens is no array");
    for (const Json& token : added) {
      FQ_ASSIGN_OR_RETURN(TokenEntry * slot, Slot(Member(token, "id")));
      const std::string text = StringOf(Member(token, "content"));
      if (text.empty()) return Wrong("an added token has no content");
      if (BoolOf(Member(token, "single_word"), false)) {
        return Unsupported(absl::StrCat("added token '", text, "' is single_word"));
      }
      const bool special = BoolOf(Member(token, "special"), false);
      *slot = {.text = text,
               .type = special ? TokenType::kControl : TokenType::kUserDefined,
               .strip_left = BoolOf(Member(token, "lstrip"), false),
               .strip_right = BoolOf(Member(token, "rstrip"), false)};
    }
    return absl::OkStatus();
  }

  absl::Status ReadMerges() {
    const Json& merges = Member(model_, "merges");
    if (!merges.is_array()) return Wrong("model.merges is no array");
    spec_.merges.reserve(merges.size());
    for (const Json& merge : merges) {
      if (merge.is_string()) {
        const std::string& text = merge.get_ref<const std::string&>();
        const size_t space = text.find(' ');
        if (space == std::string::npos) return Wrong(absl::StrCat("merge '", text, "' has no space"));
        spec_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        spec_.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      } else {
        return Wrong("a merge is neither 'left right' nor a pair of texts");
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadNormalizer(const Json& part, const std::string& type) {
    if (type == "NFC") {
      spec_.normalize_nfc = true;
    } else if (type == "Prepend" && StringOf(Member(part, "prepend")) == kSpaceMark) {
      spec_.space_prefix = SpacePrefix::kAlways;
    } else if (type == "Replace" && StringOf(Member(Member(part, "pattern"), "String")) == " " &&
               StringOf(Member(part, "content")) == kSpaceMark) {
      spec_.escape_space = true;
    } else {
      return Unsupported(absl::StrCat("normalizer ", part.dump()));
    }
    return absl::OkStatus();
  }

  absl::Status ReadPreTokenizer(const Json& part, const std::string& type) {
    if (type == "ByteLevel") {
      spec_.byte_level = true;
      if (BoolOf(Member(part, "use_regex"), true)) spec_.patterns.emplace_back(kGpt2Pattern);
      if (BoolOf(Member(part, "add_prefix_space"), true)) spec_.space_prefix = SpacePrefix::kAlwaysIfMissing;
    } else if (type == "Split") {
      const std::string regex = StringOf(Member(Member(part, "pattern"), "Regex"));
      const std::string behavior = StringOf(Member(part, "behavior"));
      if (regex.empty() || behavior != "Isolated" || BoolOf(Member(part, "invert"), false)) {
        return Unsupported(absl::StrCat("pre_tokenizer ", part.dump()));
      }
      spec_.patterns.push_back(regex);
    } else if (type == "Digits") {
      spec_.patterns.emplace_back(BoolOf(Member(part, "individual_digits"), false) ? kSingleDigitPattern : R"(\p{N}+)");
    } else if (type == "Metaspace") {
      return ReadMetaspace(part);
    } else {
      return Unsupported(absl::StrCat("pre_tokenizer ", part.dump()));
    }
    return absl::OkStatus();
  }

  absl::Status ReadMetaspace(const Json& part) {
    if (StringOf(Member(part, "replacement")) != kSpaceMark || BoolOf(Member(part, "split"), true)) {
      return Unsupported(absl::StrCat("pre_tokenizer ", part.dump()));
    }
    spec_.escape_space = true;
    std::string scheme = StringOf(Member(part, "prepend_scheme"));
    if (scheme.empty()) scheme = BoolOf(Member(part, "add_prefix_space"), true) ? "always" : "never";
    if (scheme == "first") {
      spec_.space_prefix = SpacePrefix::kFirstIfMissing;
    } else if (scheme == "always") {
      spec_.space_prefix = SpacePrefix::kAlwaysIfMissing;
    } else if (scheme != "never") {
      return Unsupported(absl::StrCat("pre_tokenizer ", part.dump()));
    }
    return absl::OkStatus();
  }

  absl::Status ReadDecoder(const Json& part, const std::string& type) {
    if (type == "ByteLevel") {
      spec_.byte_level = true;
    } else if (type == "Metaspace") {
      const std::string scheme = StringOf(Member(part, "prepend_scheme"));
      spec_.strips_first_space = scheme != "never" && BoolOf(Member(part, "add_prefix_space"), true);
    } else if (type == "Strip" && StringOf(Member(part, "content")) == " ") {
      spec_.strips_first_space = Member(part, "start") == 1;
    } else if (type != "Replace" && type != "ByteFallback" && type != "Fuse") {
      return Unsupported(absl::StrCat("decoder ", part.dump()));
    }
    return absl::OkStatus();
  }

  absl::Status ReadPostProcessor(const Json& part, const std::string& type) {
    if (type == "ByteLevel") return absl::OkStatus();
    if (type != "TemplateProcessing") return Unsupported(absl::StrCat("post_processor '", type, "'"));
    const Json& single = Member(part, "single");
    if (!single.is_array()) return Wrong("post_processor.single is no array");
    bool before_text = true;
    for (const Json& item : single) {
      const Json& special = Member(item, "SpecialToken");
      if (special.is_null()) {
        before_text = false;
        continue;
      }
      const int64_t id = IdOfSpecial(StringOf(Member(special, "id")));
      int64_t& target = before_text ? spec_.bos_id : spec_.eos_id;
      if (id < 0 || target >= 0) return Unsupported(absl::StrCat("post_processor ", single.dump()));
      target = id;
      (before_text ? spec_.add_bos : spec_.add_eos) = true;
    }
    return absl::OkStatus();
  }

  int64_t IdOfSpecial(const std::string& text) const {
    const auto is_it = [&](const TokenEntry& token) {
      return token.text == text && (token.type == TokenType::kControl || token.type == TokenType::kUserDefined);
    };
    const auto found = std::find_if(spec_.tokens.begin(), spec_.tokens.end(), is_it);
    return found == spec_.tokens.end() || text.empty() ? -1 : found - spec_.tokens.begin();
  }

  void ReadConfig() {
    const int64_t bos = IdOfSpecial(TokenText(Member(config_, "bos_token")));
    const int64_t eos = IdOfSpecial(TokenText(Member(config_, "eos_token")));
    if (bos >= 0) spec_.bos_id = bos;
    if (eos >= 0) spec_.eos_id = eos;
    spec_.add_bos = BoolOf(Member(config_, "add_bos_token"), spec_.add_bos) && spec_.bos_id >= 0;
    spec_.add_eos = BoolOf(Member(config_, "add_eos_token"), spec_.add_eos) && spec_.eos_id >= 0;
    const Json& chat = Member(config_, "chat_template");
    spec_.chat_template = StringOf(chat);
    if (!chat.is_array()) return;
    for (const Json& named : chat) {
      if (StringOf(Member(named, "name")) == "default") spec_.chat_template = StringOf(Member(named, "template"));
    }
  }

  const Json& tokenizer_;
  const Json& config_;
  const std::string& name_;
  const Json& model_;
  bool byte_fallback_ = false;
  TokenizerSpec spec_;
};

absl::StatusOr<Json> ParseObject(absl::string_view text, const std::string& name) {
  Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::DataLossError(absl::StrCat(name, " is no JSON object (", text.size(),
                                            " bytes: truncated, or another kind of file?); download it again"));
  }
  return json;
}

}  // namespace

absl::StatusOr<TokenizerSpec> SpecFromHuggingFace(absl::string_view tokenizer_json, absl::string_view config_json,
                                                  const std::string& name) {
  FQ_ASSIGN_OR_RETURN(const Json tokenizer, ParseObject(tokenizer_json, name));
  Json config = Json::object();
  if (!config_json.empty()) {
    FQ_ASSIGN_OR_RETURN(config, ParseObject(config_json, absl::StrCat("tokenizer_config.json beside ", name)));
  }
  return Loader(tokenizer, config, name).Load();
}

}  // namespace flexquant
