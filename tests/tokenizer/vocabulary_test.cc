// The vocabularies of the shared data against the ids published with them.

#include <sstream>
#include <vector>

#include "common/tokenizer/tokenizer.h"
#include "tests/tokenizer/test_data.h"

namespace flexquant {
namespace {

std::vector<std::string> Blocks(const std::string& text) {
  constexpr char kSeparator[] = "\n__ggml_vocab_test__\n";
  std::vector<std::string> blocks;
  size_t start = 0;
  for (size_t at = text.find(kSeparator); at != std::string::npos; at = text.find(kSeparator, start)) {
    blocks.push_back(text.substr(start, at - start));
    start = at + sizeof(kSeparator) - 1;
  }
  return blocks;
}

std::vector<std::vector<uint32_t>> IdLines(const std::string& text) {
  std::vector<std::vector<uint32_t>> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    std::istringstream numbers(line);
    lines.emplace_back();
    for (uint32_t id; numbers >> id;) lines.back().push_back(id);
  }
  return lines;
}

class VocabularyTest : public testing::TestWithParam<const char*> {};

TEST_P(VocabularyTest, GivesThePublishedIdsAndTheTextBack) {
  const auto base = test::DataDir() / "tokenizers" / (std::string("ggml-vocab-") + GetParam() + ".gguf");
  FQ_SKIP_WITHOUT(base);
  const auto tokenizer = Tokenizer::Load(base.string());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto texts = ReadFile(base.string() + ".inp");
  const auto ids = ReadFile(base.string() + ".out");
  ASSERT_TRUE(texts.ok() && ids.ok());
  const auto blocks = Blocks(*texts);
  const auto expected = IdLines(*ids);
  ASSERT_EQ(blocks.size(), 46u);
  ASSERT_EQ(expected.size(), blocks.size());
  for (size_t i = 0; i < blocks.size(); ++i) {
    for (const bool parse_special : {false, true}) {
      const auto encoded = (*tokenizer)->Encode(blocks[i], {.add_special = false, .parse_special = parse_special});
      ASSERT_TRUE(encoded.ok()) << encoded.status();
      EXPECT_EQ(*encoded, expected[i]) << "block " << i << ": " << blocks[i];
    }
    EXPECT_EQ((*tokenizer)->Decode(expected[i]), blocks[i]) << "block " << i;
    IncrementalDetokenizer incremental(**tokenizer, /*continues_text=*/false);
    std::string pieces;
    for (const uint32_t id : expected[i]) {
      pieces += incremental.Append(id);
      EXPECT_EQ(FindInvalidUtf8(pieces), -1) << "block " << i;
    }
    EXPECT_EQ(pieces + incremental.Finish(), blocks[i]) << "block " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Published, VocabularyTest, testing::Values("llama-bpe", "llama-spm", "qwen2", "gpt-2"),
                         [](const testing::TestParamInfo<const char*>& vocabulary) {
                           std::string name = vocabulary.param;
                           for (char& c : name) {
                             if (c == '-') c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace flexquant
