#ifndef FLEXQUANT_TESTS_TOKENIZER_SYNTHETIC_VOCABULARY_H_
#define FLEXQUANT_TESTS_TOKENIZER_SYNTHETIC_VOCABULARY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/formats/gguf.h"

namespace flexquant::test {

// Small vocabularies as GGUF metadata; a test changes `tokens`, ... and calls Write(), or sets more keys.

// All 256 bytes (ids 0 to 255), a few merges, and the special tokens of all chat families.
struct ByteLevelVocabulary {
  ByteLevelVocabulary();
  void Write();
  int32_t Id(const std::string& text) const;  // -1 if absent

  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<std::string> merges;
  GgufMetadataWriter writer;
};

// <unk>, <s>, </s>, the 256 bytes (ids 3 to 258), then letters and words with scores.
struct SentencePieceVocabulary {
  SentencePieceVocabulary();
  void Write();
  int32_t Id(const std::string& text) const;

  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<float> scores;
  GgufMetadataWriter writer;
};

}  // namespace flexquant::test

#endif  // FLEXQUANT_TESTS_TOKENIZER_SYNTHETIC_VOCABULARY_H_
