#include "tests/tokenizer/synthetic_vocabulary.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "common/tokenizer/utf8.h"

namespace flexquant::test {
namespace {

int32_t IndexOf(const std::vector<std::string>& tokens, const std::string& text) {
  const auto found = std::find(tokens.begin(), tokens.end(), text);
  return found == tokens.end() ? -1 : static_cast<int32_t>(found - tokens.begin());
}

}  // namespace

ByteLevelVocabulary::ByteLevelVocabulary() {
  uint32_t extra = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    std::string text;
    AppendUtf8(printable ? byte : extra++, &text);
    tokens.push_back(text);
  }
  // "Ġ" is the byte-level space, "Ċ" the newline.
  merges = {"h e", "l l", "Ġ w", "he ll", "hell o", "o r", "Ġw or", "l d", "Ġwor ld", "Ċ Ċ", "a a", "aa aa"};
  for (const std::string& merge : merges) {
    const size_t space = merge.find(' ', 1);
    tokens.push_back(merge.substr(0, space) + merge.substr(space + 1));
  }
  types.assign(tokens.size(), 1);
  for (const char* special : {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|start_header_id|>",
                              "<|end_header_id|>", "<|eot_id|>", "<s>", "</s>"}) {
    tokens.push_back(special);
    types.push_back(3);
  }
  tokens.push_back("<think>");
  types.push_back(4);
  Write();
}

void ByteLevelVocabulary::Write() {
  writer.SetString("tokenizer.ggml.model", "gpt2");
  writer.SetString("tokenizer.ggml.pre", "gpt-2");
  writer.SetStringArray("tokenizer.ggml.tokens", tokens);
  writer.SetInt32Array("tokenizer.ggml.token_type", types);
  writer.SetStringArray("tokenizer.ggml.merges", merges);
}

int32_t ByteLevelVocabulary::Id(const std::string& text) const { return IndexOf(tokens, text); }

SentencePieceVocabulary::SentencePieceVocabulary() {
  tokens = {"<unk>", "<s>", "</s>"};
  types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(absl::StrFormat("<0x%02X>", byte));
    types.push_back(6);
  }
  scores.assign(tokens.size(), 0.0f);
  float score = 0;
  for (const char* text : {"▁t", "he", "▁the", "in", "ing", "▁▁", "th", "▁", "t", "h", "e", "i", "n", "g", "é"}) {
    tokens.push_back(text);
    types.push_back(1);
    scores.push_back(--score);
  }
  Write();
}

void SentencePieceVocabulary::Write() {
  writer.SetString("tokenizer.ggml.model", "llama");
  writer.SetStringArray("tokenizer.ggml.tokens", tokens);
  writer.SetInt32Array("tokenizer.ggml.token_type", types);
  writer.SetFloatArray("tokenizer.ggml.scores", scores);
  writer.SetUint32("tokenizer.ggml.bos_token_id", 1);
  writer.SetUint32("tokenizer.ggml.eos_token_id", 2);
}

int32_t SentencePieceVocabulary::Id(const std::string& text) const { return IndexOf(tokens, text); }

}  // namespace flexquant::test
