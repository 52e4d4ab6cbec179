// Wrong files give a Status that helps, and no text makes tokenizing slow.

#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "common/tokenizer/tokenizer.h"
#include "tests/tokenizer/synthetic_vocabulary.h"
#include "tests/tokenizer/test_data.h"

namespace flexquant {
namespace {

using Json = nlohmann::json;
using test::ByteLevelVocabulary;
using test::SentencePieceVocabulary;
using testing::HasSubstr;

// A quadratic algorithm needs hours for these texts; sanitizers and busy machines need a few seconds.
constexpr double kMaxSeconds = 30;
constexpr size_t kMegabyte = 1 << 20;

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadGguf(const std::string& bytes) {
  const test::TemporaryFolder folder;
  return Tokenizer::Load(folder.Add("tokenizer.gguf", bytes));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadJson(const std::string& text, const std::string& config = "") {
  const test::TemporaryFolder folder;
  if (!config.empty()) folder.Add("tokenizer_config.json", config);
  folder.Add("tokenizer.json", text);
  return Tokenizer::Load(folder.path());
}

// A small byte-level tokenizer.json.
Json SmallJson() {
  return Json::parse(R"({"version": "1.0",
    "added_tokens": [{"id": 5, "content": "<|im_end|>", "special": true}, {"id": 6, "content": "<t>", "special": false,
                     "lstrip": true, "rstrip": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": null, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3, "abc": 4}, "merges": ["a b", ["ab", "c"]]}})");
}

double Seconds(const Tokenizer& tokenizer, const std::string& text, std::vector<uint32_t>* ids) {
  const auto start = std::chrono::steady_clock::now();
  auto encoded = tokenizer.Encode(text, {});
  EXPECT_TRUE(encoded.ok()) << encoded.status();
  if (encoded.ok()) *ids = std::move(*encoded);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<std::pair<std::string, std::string>> MakeLongTexts() {
  const auto repeat = [](const std::string& unit) {
    std::string text;
    while (text.size() < kMegabyte) text += unit;
    return text;
  };
  std::mt19937 random(7);
  std::string letters, words, marks;
  while (letters.size() < kMegabyte) letters.push_back(static_cast<char>('a' + random() % 26));
  while (words.size() < kMegabyte) words += letters.substr(random() % 9999, 1 + random() % 9) + " ";
  while (marks.size() < kMegabyte) marks += random() % 2 != 0 ? "\u0301" : "\u0323";
  return {{"one word of a", repeat("a")},
          {"one word of random letters", letters},
          {"words", words},
          {"spaces", repeat(" ")},
          {"spaces, then a letter", repeat(" ") + "x"},
          {"newlines", repeat("\n")},
          {"spaces and newlines", repeat(" \n")},
          {"punctuation", repeat("<|im_start")},
          {"combining marks", "e" + marks},
          {"digits", repeat("7")},
          {"CJK", repeat("日本語")},
          {"space marks", repeat("▁")}};
}

const std::vector<std::pair<std::string, std::string>>& LongTexts() {
  static const auto* const kTexts = new auto(MakeLongTexts());
  return *kTexts;
}

void ExpectLongTextsPass(const Tokenizer& tokenizer) {
  for (const auto& [name, text] : LongTexts()) {
    std::vector<uint32_t> ids;
    const double seconds = Seconds(tokenizer, text, &ids);
    EXPECT_LT(seconds, kMaxSeconds) << name;
    // Space marks become spaces and marks are put in order, where the model does so.
    if (name != "space marks" && name != "combining marks") {
      EXPECT_TRUE(tokenizer.Decode(ids) == text) << name;
    }
    ::testing::Test::RecordProperty(name, std::to_string(seconds));
  }
}

TEST(LongTextTest, ByteLevel) {
  const auto tokenizer = LoadGguf(ByteLevelVocabulary().writer.Serialize());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectLongTextsPass(**tokenizer);
}

TEST(LongTextTest, SentencePiece) {
  const auto tokenizer = LoadGguf(SentencePieceVocabulary().writer.Serialize());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectLongTextsPass(**tokenizer);
}

class LongTextOnRealVocabularyTest : public testing::TestWithParam<const char*> {};

TEST_P(LongTextOnRealVocabularyTest, TakesSecondsAtMost) {
  const auto path = test::DataDir() / "tokenizers" / GetParam();
  FQ_SKIP_WITHOUT(path);
  const auto tokenizer = Tokenizer::Load(path.string());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectLongTextsPass(**tokenizer);
  const auto prose = ReadFile((test::DataDir() / "text" / "wiki.test.raw").string());
  ASSERT_TRUE(prose.ok()) << prose.status();
  std::vector<uint32_t> ids;
  EXPECT_LT(Seconds(**tokenizer, *prose, &ids), kMaxSeconds);
  EXPECT_TRUE((*tokenizer)->Decode(ids) == *prose);
}

INSTANTIATE_TEST_SUITE_P(Real, LongTextOnRealVocabularyTest,
                         testing::Values("ggml-vocab-llama-bpe.gguf", "qwen3", "llama2"));

TEST(WrongFileTest, MissingAndEmpty) {
  EXPECT_EQ(Tokenizer::Load("/nonexistent/tokenizer").status().code(), absl::StatusCode::kNotFound);
  const test::TemporaryFolder folder;
  const auto status = Tokenizer::Load(folder.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokenizer.gguf"));
  EXPECT_FALSE(LoadGguf("").ok());
  EXPECT_EQ(LoadJson("").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(LoadJson("[1]").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(LoadJson(SmallJson().dump(), "{").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(LoadJson(std::string(100000, '[')).status().code(), absl::StatusCode::kDataLoss);
}

TEST(WrongFileTest, TruncatedOrFlippedNeverCrashes) {
  const std::string gguf = ByteLevelVocabulary().writer.Serialize();
  const std::string pieces = SentencePieceVocabulary().writer.Serialize();
  const std::string json = SmallJson().dump();
  std::mt19937 random(11);
  for (size_t length = 0; length < json.size(); ++length) EXPECT_FALSE(LoadJson(json.substr(0, length)).ok());
  for (size_t length = 0; length < gguf.size(); length += 97) EXPECT_FALSE(LoadGguf(gguf.substr(0, length)).ok());
  const auto try_it = [](const absl::StatusOr<std::unique_ptr<Tokenizer>>& tokenizer) {
    if (!tokenizer.ok()) return;
    const auto ids = (*tokenizer)->Encode("hello the abc 日 <t> x", {.add_special = true, .parse_special = true});
    if (ids.ok()) {
      EXPECT_EQ(FindInvalidUtf8((*tokenizer)->Decode(*ids, true)), -1);
    }
  };
  for (int round = 0; round < 600; ++round) {
    std::string bytes = round % 3 == 0 ? gguf : round % 3 == 1 ? pieces : json;
    for (int flips = 1 + static_cast<int>(random() % 3); flips > 0; --flips) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    try_it(round % 3 == 2 ? LoadJson(bytes) : LoadGguf(bytes));
  }
}

TEST(WrongFileTest, GgufErrorsSayWhat) {
  const auto error = [](const GgufMetadataWriter& writer, absl::StatusCode code) {
    const auto status = LoadGguf(writer.Serialize()).status();
    EXPECT_EQ(status.code(), code) << status;
    return std::string(status.message());
  };
  ByteLevelVocabulary vocabulary;
  vocabulary.writer.SetString("tokenizer.ggml.pre", "sesame");
  EXPECT_THAT(error(vocabulary.writer, absl::StatusCode::kUnimplemented), HasSubstr("'sesame'"));
  vocabulary.Write();
  vocabulary.writer.SetString("tokenizer.ggml.model", "bert");
  EXPECT_THAT(error(vocabulary.writer, absl::StatusCode::kUnimplemented), HasSubstr("'bert'"));
  vocabulary.merges.push_back("h zzz");
  vocabulary.Write();
  EXPECT_THAT(error(vocabulary.writer, absl::StatusCode::kInvalidArgument), HasSubstr("'zzz'"));
  vocabulary.merges.back() = "nospace";
  vocabulary.Write();
  EXPECT_THAT(error(vocabulary.writer, absl::StatusCode::kInvalidArgument), HasSubstr("'nospace'"));
  vocabulary.merges.pop_back();
  vocabulary.types.back() = 9;
  vocabulary.Write();
  EXPECT_THAT(error(vocabulary.writer, absl::StatusCode::kInvalidArgument), HasSubstr("is 9"));
  vocabulary.types.pop_back();
  vocabulary.Write();
  EXPECT_THAT(error(vocabulary.writer, absl::StatusCode::kInvalidArgument), HasSubstr("token_type has"));
  vocabulary = ByteLevelVocabulary();
  vocabulary.writer.SetUint32("tokenizer.ggml.eos_token_id", 4000000);
  EXPECT_THAT(error(vocabulary.writer, absl::StatusCode::kInvalidArgument), HasSubstr("4000000"));
  vocabulary = ByteLevelVocabulary();
  vocabulary.writer.SetUint32("tokenizer.ggml.eot_token_id", 4000000);
  EXPECT_THAT(error(vocabulary.writer, absl::StatusCode::kInvalidArgument), HasSubstr("4000000"));
  vocabulary = ByteLevelVocabulary();
  vocabulary.writer.SetBool("tokenizer.ggml.add_bos_token", true);
  EXPECT_THAT(error(vocabulary.writer, absl::StatusCode::kInvalidArgument), HasSubstr("begin-of-sequence"));
  SentencePieceVocabulary pieces;
  pieces.scores.back() = NAN;
  pieces.Write();
  EXPECT_THAT(error(pieces.writer, absl::StatusCode::kInvalidArgument), HasSubstr("score"));
  pieces.scores.pop_back();
  pieces.Write();
  EXPECT_THAT(error(pieces.writer, absl::StatusCode::kInvalidArgument), HasSubstr("scores"));
}

TEST(WrongFileTest, JsonErrorsSayWhat) {
  const auto error = [](const char* pointer, const Json& value, absl::StatusCode code) {
    Json json = SmallJson();
    json[Json::json_pointer(pointer)] = value;
    const auto status = LoadJson(json.dump()).status();
    EXPECT_EQ(status.code(), code) << pointer << status;
    return std::string(status.message());
  };
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(error("/model/type", "Unigram", kUnimplemented), HasSubstr("Unigram"));
  EXPECT_THAT(error("/model/vocab", 5, kInvalid), HasSubstr("vocab"));
  EXPECT_THAT(error("/model/vocab/a", 4294967295u, kInvalid), HasSubstr("4294967295"));
  EXPECT_THAT(error("/model/vocab/a", -1, kInvalid), HasSubstr("id"));
  EXPECT_THAT(error("/model/vocab/a", 1, kInvalid), HasSubstr("share"));
  EXPECT_THAT(error("/model/merges/0", 7, kInvalid), HasSubstr("merge"));
  EXPECT_THAT(error("/model/merges/0", "ab", kInvalid), HasSubstr("'ab'"));
  EXPECT_THAT(error("/model/merges/0", "a q", kInvalid), HasSubstr("'q'"));
  EXPECT_THAT(error("/model/unk_token", "<nope>", kInvalid), HasSubstr("<nope>"));
  EXPECT_THAT(error("/normalizer", {{"type", "Lowercase"}}, kUnimplemented), HasSubstr("Lowercase"));
  EXPECT_THAT(error("/pre_tokenizer", {{"type", "Whitespace"}}, kUnimplemented), HasSubstr("Whitespace"));
  EXPECT_THAT(error("/decoder", {{"type", "WordPiece"}}, kUnimplemented), HasSubstr("WordPiece"));
  EXPECT_THAT(error("/post_processor", {{"type", "BertProcessing"}}, kUnimplemented), HasSubstr("BertProcessing"));
  EXPECT_THAT(error("/added_tokens/0/single_word", true, kUnimplemented), HasSubstr("single_word"));
  EXPECT_THAT(error("/added_tokens/0/content", std::string(300, 'x'), kInvalid), HasSubstr("300"));
  const Json split = {{"type", "Sequence"},
                      {"pretokenizers",
                       {{{"type", "ByteLevel"}, {"use_regex", false}},
                        {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}}}}};
  EXPECT_THAT(error("/pre_tokenizer", split, kInvalid), HasSubstr("'(a'"));
}

TEST(JsonTest, SmallFileWorks) {
  const auto tokenizer = LoadJson(SmallJson().dump(), R"({"eos_token": {"content": "<|im_end|>"}})");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("abcab", {}), testing::ElementsAre(4, 2));
  EXPECT_THAT(*(*tokenizer)->Encode("a \u3000<t>\n b<|im_end|>", {.parse_special = true}),
              testing::ElementsAre(0, 6, 1, 5))
      << "<t> takes the white space around it";
  EXPECT_THAT(*(*tokenizer)->Encode("zaz", {}), testing::ElementsAre(0)) << "bytes without a token are left out";
  EXPECT_THAT((*tokenizer)->eos_ids(), testing::ElementsAre(5));
}

TEST(ThreadsTest, OneTokenizerServesMany) {
  const auto tokenizer = LoadGguf(ByteLevelVocabulary().writer.Serialize());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::string text = LongTexts()[2].second.substr(0, 20000);
  const auto expected = (*tokenizer)->Encode(text, {});
  std::vector<std::vector<uint32_t>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) {
    threads.emplace_back([&] {
      for (int i = 0; i < 3; ++i) result = *(*tokenizer)->Encode(text, {});
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, *expected);
}

}  // namespace
}  // namespace flexquant
