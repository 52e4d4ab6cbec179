// tokenizer.json, its configuration and chat template; encoding and decoding of any text. The input is a byte of
// choices, then sections: tokenizer.json and tokenizer_config.json (or, if so chosen, a fixed vocabulary instead), the
// chat template, a role and a message; the rest is the text, which need not be UTF-8.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/tokenizer/bpe_tokenizer.h"
#include "common/tokenizer/chat_template.h"
#include "common/tokenizer/tokenizer.h"
#include "common/tokenizer/tokenizer_spec.h"
#include "common/tokenizer/utf8.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/tokenizer/synthetic_vocabulary.h"

namespace flexquant::fuzz {
namespace {

enum Choice : uint8_t {
  kFixedVocabulary = 1,
  kSentencePiece = 2,
  kAddSpecial = 4,
  kParseSpecial = 8,
  kFollowsSpecial = 16,
  kOwnTemplate = 32,  // the section's template takes the place of the vocabulary's
};

TokenizerSpec FixedSpec(const std::string& gguf) {
  const auto file = GgufFile::Parse({reinterpret_cast<const uint8_t*>(gguf.data()), gguf.size()}, "vocabulary");
  FQ_CHECK(file.ok());
  auto spec = SpecFromGguf(*file);
  FQ_CHECK(spec.ok());
  return *std::move(spec);
}

const TokenizerSpec& FixedSpec(bool sentence_piece) {
  static const auto* const kByteLevel = new TokenizerSpec(FixedSpec(test::ByteLevelVocabulary().writer.Serialize()));
  static const auto* const kPieces = new TokenizerSpec(FixedSpec(test::SentencePieceVocabulary().writer.Serialize()));
  return sentence_piece ? *kPieces : *kByteLevel;
}

const Tokenizer& FixedTokenizer(bool sentence_piece) {
  static const auto* const kByteLevel = BpeTokenizer::Create(FixedSpec(false))->release();
  static const auto* const kPieces = BpeTokenizer::Create(FixedSpec(true))->release();
  return sentence_piece ? *kPieces : *kByteLevel;
}

void CheckText(const Tokenizer& tokenizer, const std::string& text, const Tokenizer::EncodeOptions& options) {
  const auto ids = tokenizer.Encode(text, options);
  FQ_CHECK(ids.ok() == (FindInvalidUtf8(text) < 0));
  if (!ids.ok()) {
    return;
  }
  IncrementalDetokenizer incremental(tokenizer);
  std::string streamed;
  std::string bytes;
  for (const uint32_t id : *ids) {
    FQ_CHECK(id < tokenizer.vocab_size());
    streamed += incremental.Append(id);
    bytes += tokenizer.TokenBytes(id, false);
    FQ_CHECK(FindInvalidUtf8(streamed) < 0);
  }
  streamed += incremental.Finish();
  FQ_CHECK(streamed == ReplaceInvalidUtf8(bytes));
  FQ_CHECK(FindInvalidUtf8(tokenizer.Decode(*ids, true)) < 0);
}

// A vocabulary with every byte and without normalisation loses nothing.
void CheckRoundTrip(const std::string& text) {
  const auto ids = FixedTokenizer(false).Encode(text, {});
  FQ_CHECK(!ids.ok() || FixedTokenizer(false).Decode(*ids, false) == text);
}

// Ids that no text gives: what a model may sample.
void CheckIds(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<uint32_t> ids;
  IncrementalDetokenizer incremental(tokenizer, /*continues_text=*/false);
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    ids.push_back(static_cast<uint32_t>(static_cast<uint8_t>(text[i]) * 256U + static_cast<uint8_t>(text[i + 1])) %
                  300);
    FQ_CHECK(FindInvalidUtf8(incremental.Append(ids.back())) < 0);
  }
  FQ_CHECK(FindInvalidUtf8(tokenizer.Decode(ids, false)) < 0);
}

void CheckChat(const Tokenizer& tokenizer, const std::string& role, const std::string& content) {
  const auto chat = ChatTemplate::Recognize(tokenizer);
  if (!chat.ok()) {
    return;
  }
  (void)(*chat)->name();
  for (const auto& messages :
       {std::vector<ChatMessage>{{"user", content}}, std::vector<ChatMessage>{{role, content}, {"user", "hello"}},
        std::vector<ChatMessage>{{"system", content}, {"user", "the"}, {"assistant", content}, {"user", content}}}) {
    const auto ids = (*chat)->Render(messages);
    if (ids.ok()) {
      FQ_CHECK(FindInvalidUtf8(tokenizer.Decode(*ids, true)) < 0);
    }
  }
}

FQ_FUZZ_TARGET(tokenizer, input) {
  FuzzInput bytes(input);
  const uint8_t choices = bytes.Byte();
  const bool fixed = (choices & kFixedVocabulary) != 0;
  const bool sentence_piece = (choices & kSentencePiece) != 0;
  std::unique_ptr<Tokenizer> made;
  TokenizerSpec spec;
  if (!fixed) {
    const std::string vocabulary = bytes.Section();
    const std::string config = bytes.Section();
    auto read = SpecFromHuggingFace(vocabulary, config, "tokenizer.json");
    if (!read.ok()) {
      return;
    }
    spec = *std::move(read);
  } else if ((choices & kOwnTemplate) != 0) {
    spec = FixedSpec(sentence_piece);
  }
  const std::string chat_template = bytes.Section();
  const std::string role = bytes.Section();
  const std::string message = bytes.Section();
  const std::string text = bytes.Rest();
  if ((choices & kOwnTemplate) != 0) {
    spec.chat_template = chat_template;
  }
  if (!fixed || (choices & kOwnTemplate) != 0) {
    auto created = BpeTokenizer::Create(std::move(spec));
    if (!created.ok()) {
      return;
    }
    made = *std::move(created);
  }
  const Tokenizer& tokenizer = made != nullptr ? *made : FixedTokenizer(sentence_piece);
  CheckText(tokenizer, text,
            {.add_special = (choices & kAddSpecial) != 0,
             .parse_special = (choices & kParseSpecial) != 0,
             .follows_special = (choices & kFollowsSpecial) != 0});
  CheckIds(tokenizer, text);
  CheckChat(tokenizer, role, message);
  CheckRoundTrip(text);
}

}  // namespace
}  // namespace flexquant::fuzz
