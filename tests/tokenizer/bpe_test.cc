// The algorithms on small vocabularies made here.

#include <memory>

#include "common/tokenizer/bpe_merger.h"
#include "common/tokenizer/pre_tokenizer.h"
#include "common/tokenizer/tokenizer.h"
#include "common/tokenizer/utf8.h"
#include "tests/tokenizer/synthetic_vocabulary.h"
#include "tests/tokenizer/test_data.h"

namespace flexquant {
namespace {

using test::ByteLevelVocabulary;
using test::SentencePieceVocabulary;
using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::HasSubstr;

std::unique_ptr<Tokenizer> Load(const GgufMetadataWriter& writer) {
  const test::TemporaryFolder folder;
  folder.Add("tokenizer.gguf", writer.Serialize());
  auto tokenizer = Tokenizer::Load(folder.path());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? std::move(*tokenizer) : nullptr;
}

std::vector<uint32_t> Encode(const Tokenizer& tokenizer, absl::string_view text,
                             const Tokenizer::EncodeOptions& options = {}) {
  const auto ids = tokenizer.Encode(text, options);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *ids : std::vector<uint32_t>();
}

TEST(BpeMergerTest, LowestRankFirstThenLeftmost) {
  BpeMerger merger;
  merger.Add(1, 2, 5, 12);
  merger.Add(2, 1, 3, 21);
  merger.Add(1, 1, 4, 11);
  merger.Add(11, 1, 1, 111);
  BpeMerger::Scratch scratch;
  std::vector<uint32_t> out;
  merger.Merge({1, 2, 1, 2}, &scratch, &out);
  EXPECT_THAT(out, ElementsAre(1, 21, 2));
  out.clear();
  merger.Merge({1, 1, 1, 1}, &scratch, &out);
  EXPECT_THAT(out, ElementsAre(111, 1));
  out.clear();
  merger.Merge({kNoToken, kNoToken, 1, 2}, &scratch, &out);
  EXPECT_THAT(out, ElementsAre(kNoToken, kNoToken, 12));
  out.clear();
  merger.Merge({}, &scratch, &out);
  EXPECT_TRUE(out.empty());
}

TEST(PreTokenizerTest, KeepsEveryByteAndGaps) {
  const auto digits = PreTokenizer::Create({"[0-9]+", "b"});
  ASSERT_TRUE(digits.ok());
  EXPECT_THAT(*(*digits)->Split("ab12cb3"), ElementsAre("a", "b", "12", "c", "b", "3"));
  EXPECT_THAT(*(*digits)->Split(""), ElementsAre());
  const auto empty_matches = PreTokenizer::Create({"x*"});
  ASSERT_TRUE(empty_matches.ok());
  EXPECT_THAT(*(*empty_matches)->Split("éxxa"), ElementsAre("é", "xx", "a"));
}

TEST(PreTokenizerTest, SpacesAreUnicodes) {
  const auto spaces = PreTokenizer::Create({R"([\s]+|\S+)"});
  ASSERT_TRUE(spaces.ok());
  // U+180E is no white space, U+0085 and U+3000 are.
  EXPECT_THAT(*(*spaces)->Split("a\u180E\u0085\u3000b"), ElementsAre("a\u180E", "\u0085\u3000", "b"));
}

TEST(PreTokenizerTest, BadPatternsAreErrors) {
  EXPECT_EQ(PreTokenizer::Create({"(unclosed"}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PreTokenizer::Create({std::string(5000, 'a')}).status().code(), absl::StatusCode::kInvalidArgument);
  const auto endless = PreTokenizer::Create({"(a+)+b|(?:(?:a|aa)+)+c"});
  ASSERT_TRUE(endless.ok());
  EXPECT_EQ((*endless)->Split(std::string(64, 'a')).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(ByteLevelTest, MergesAndFallsBackToBytes) {
  const ByteLevelVocabulary vocabulary;
  const auto tokenizer = Load(vocabulary.writer);
  ASSERT_NE(tokenizer, nullptr);
  const auto id = [&](const char* text) { return static_cast<uint32_t>(vocabulary.Id(text)); };
  EXPECT_THAT(Encode(*tokenizer, "hello world"), ElementsAre(id("hello"), id("Ġworld")));
  EXPECT_THAT(Encode(*tokenizer, "hell"), ElementsAre(id("hell")));
  EXPECT_THAT(Encode(*tokenizer, "é"), ElementsAre(0xC3, 0xA9));
  EXPECT_THAT(Encode(*tokenizer, "aaaaa"), ElementsAre(id("aaaa"), 'a'));
  EXPECT_TRUE(Encode(*tokenizer, "").empty());
  EXPECT_EQ(tokenizer->Decode({id("hello"), 0xC3, 0xA9, id("Ġworld")}), "helloé world");
  EXPECT_EQ(tokenizer->vocab_size(), vocabulary.tokens.size());
}

TEST(ByteLevelTest, EveryByteRoundTrips) {
  const auto tokenizer = Load(ByteLevelVocabulary().writer);
  ASSERT_NE(tokenizer, nullptr);
  std::string text;
  for (uint32_t c = 0; c < 0x11000; c += 7) {
    if (c < 0xD800 || c > 0xDFFF) AppendUtf8(c, &text);
  }
  EXPECT_EQ(tokenizer->Decode(Encode(*tokenizer, text)), text);
  for (uint32_t byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(tokenizer->TokenBytes(byte), std::string(1, static_cast<char>(byte)));
  }
}

TEST(ByteLevelTest, IgnoreMergesTakesWordsWhole) {
  ByteLevelVocabulary vocabulary;
  // "xyz" is in the vocabulary, but no merge leads there.
  vocabulary.tokens.push_back("xyz");
  vocabulary.types.push_back(1);
  vocabulary.Write();
  const auto merged = Load(vocabulary.writer);
  vocabulary.writer.SetString("tokenizer.ggml.pre", "llama-bpe");
  vocabulary.writer.SetBool("tokenizer.ggml.add_bos_token", false);
  const auto whole = Load(vocabulary.writer);
  ASSERT_TRUE(merged != nullptr && whole != nullptr);
  EXPECT_THAT(Encode(*merged, "xyz"), ElementsAre('x', 'y', 'z'));
  EXPECT_THAT(Encode(*whole, "xyz"), ElementsAre(vocabulary.Id("xyz")));
  EXPECT_FALSE(whole->adds_bos());
}

TEST(SpecialTokensTest, AreParsedOnlyWhenAsked) {
  const ByteLevelVocabulary vocabulary;
  const auto tokenizer = Load(vocabulary.writer);
  ASSERT_NE(tokenizer, nullptr);
  const uint32_t start = static_cast<uint32_t>(vocabulary.Id("<|im_start|>"));
  const uint32_t think = static_cast<uint32_t>(vocabulary.Id("<think>"));
  const std::string text = "a<|im_start|><|im_start|><think><|im_st";
  const auto parsed = Encode(*tokenizer, text, {.parse_special = true});
  EXPECT_THAT(std::vector<uint32_t>(parsed.begin(), parsed.begin() + 5), ElementsAre('a', start, start, think, '<'));
  const auto plain = Encode(*tokenizer, text);
  EXPECT_THAT(plain, testing::Not(testing::Contains(start)));
  EXPECT_THAT(plain, testing::Contains(think)) << "user-defined tokens always count";
  EXPECT_EQ(tokenizer->Decode(plain), text);
  EXPECT_EQ(tokenizer->Decode(parsed), "a<think><|im_st");
  EXPECT_EQ(tokenizer->Decode(parsed, /*render_special=*/true), text);
  EXPECT_EQ(tokenizer->SpecialId("<|im_start|>"), start);
  EXPECT_EQ(tokenizer->SpecialId("<|im_start"), -1);
  EXPECT_EQ(tokenizer->SpecialId(""), -1);
  EXPECT_TRUE(tokenizer->IsSpecial(start));
  EXPECT_FALSE(tokenizer->IsSpecial(1u << 30));
  EXPECT_EQ(tokenizer->TokenBytes(1u << 30), "");
}

TEST(SpecialTokensTest, TurnMarksAreControlWhateverTheFileSays) {
  ByteLevelVocabulary vocabulary;
  for (const char* text : {"<|im_start|>", "<|im_end|>"}) vocabulary.types[vocabulary.Id(text)] = 4;
  vocabulary.types[vocabulary.Id("<|eot_id|>")] = 1;
  vocabulary.Write();
  const auto tokenizer = Load(vocabulary.writer);
  ASSERT_NE(tokenizer, nullptr);
  for (const char* text : {"<|im_start|>", "<|im_end|>", "<|eot_id|>"}) {
    EXPECT_GT(Encode(*tokenizer, text).size(), 1u) << text;
    EXPECT_TRUE(tokenizer->IsSpecial(static_cast<uint32_t>(vocabulary.Id(text)))) << text;
  }
  EXPECT_THAT(tokenizer->eos_ids(), testing::IsSupersetOf({vocabulary.Id("<|im_end|>"), vocabulary.Id("<|eot_id|>"),
                                                           vocabulary.Id("<|endoftext|>")}));
}

TEST(SentencePieceTest, MergesByScoreWithBytesForTheRest) {
  const SentencePieceVocabulary vocabulary;
  const auto tokenizer = Load(vocabulary.writer);
  ASSERT_NE(tokenizer, nullptr);
  const auto id = [&](const char* text) { return static_cast<uint32_t>(vocabulary.Id(text)); };
  EXPECT_THAT(Encode(*tokenizer, "the"), ElementsAre(id("▁the")));
  EXPECT_THAT(Encode(*tokenizer, "the thing", {.add_special = true}),
              ElementsAre(1, id("▁the"), id("▁t"), id("h"), id("ing")));
  EXPECT_THAT(Encode(*tokenizer, " "), ElementsAre(id("▁▁")));
  EXPECT_THAT(Encode(*tokenizer, "é日"), ElementsAre(id("▁"), id("é"), id("<0xE6>"), id("<0x97>"), id("<0xA5>")));
  EXPECT_TRUE(Encode(*tokenizer, "").empty());
  EXPECT_THAT(Encode(*tokenizer, "", {.add_special = true}), ElementsAre(1));
  EXPECT_EQ(tokenizer->Decode(Encode(*tokenizer, "é日 the", {.add_special = true})), "é日 the");
  EXPECT_EQ(tokenizer->TokenBytes(id("▁the")), " the");
  EXPECT_EQ(tokenizer->TokenBytes(id("<0x0A>")), "\n");
  // Each text after a special token gets its own space.
  EXPECT_THAT(Encode(*tokenizer, "<s>the</s>the", {.parse_special = true}), ElementsAre(1, id("▁the"), 2, id("▁the")));
  EXPECT_THAT(Encode(*tokenizer, "<s>"), testing::Not(testing::Contains(1u)));
}

TEST(SentencePieceTest, UnknownsFuseWithoutBytes) {
  SentencePieceVocabulary vocabulary;
  for (int32_t& type : vocabulary.types) {
    if (type == 6) type = 5;
  }
  vocabulary.Write();
  const auto tokenizer = Load(vocabulary.writer);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_THAT(Encode(*tokenizer, "日本t"), ElementsAre(vocabulary.Id("▁"), 0, vocabulary.Id("t")));
}

TEST(SentencePieceTest, TokensAcrossWordsStillMerge) {
  SentencePieceVocabulary vocabulary;
  for (const char* text : {"e▁", "e▁t"}) {
    vocabulary.tokens.push_back(text);
    vocabulary.types.push_back(1);
    vocabulary.scores.push_back(1);
  }
  vocabulary.writer.SetBool("tokenizer.ggml.add_space_prefix", false);
  vocabulary.Write();
  const auto tokenizer = Load(vocabulary.writer);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_THAT(Encode(*tokenizer, "he th"), ElementsAre(vocabulary.Id("h"), vocabulary.Id("e▁t"), vocabulary.Id("h")));
  EXPECT_EQ(tokenizer->Decode({static_cast<uint32_t>(vocabulary.Id("▁t"))}), " t") << "no prefix, nothing to drop";
}

TEST(Utf8Test, NamesTheFirstInvalidByte) {
  EXPECT_EQ(FindInvalidUtf8(""), -1);
  EXPECT_EQ(FindInvalidUtf8("plain ascii text é日🙂\xF4\x8F\xBF\xBF"), -1);
  EXPECT_EQ(FindInvalidUtf8("0123456789\xC3"), 10);
  for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xE2\x82"}) {
    EXPECT_EQ(FindInvalidUtf8(std::string("ab") + bad), 2) << bad;
  }
  const auto tokenizer = Load(ByteLevelVocabulary().writer);
  ASSERT_NE(tokenizer, nullptr);
  const auto status = tokenizer->Encode("abc\xFFz", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("byte 3"));
}

TEST(Utf8Test, StripsWhatPythonStrips) {
  EXPECT_EQ(StripSpace(" \t\n\u00A0\u3000\x1F x y \u2003\u0085"), "x y");
  EXPECT_EQ(StripSpace("\u200B"), "\u200B");
  EXPECT_EQ(StripSpace(" \n "), "");
}

TEST(IncrementalDetokenizerTest, NeverSplitsCodePoints) {
  const auto tokenizer = Load(ByteLevelVocabulary().writer);
  ASSERT_NE(tokenizer, nullptr);
  const std::string text = "a👩‍👩‍👧日é!";
  IncrementalDetokenizer detokenizer(*tokenizer);
  std::string joined;
  int empty_pieces = 0;
  for (const char byte : text) {
    const std::string piece = detokenizer.Append(static_cast<uint8_t>(byte));
    EXPECT_EQ(FindInvalidUtf8(piece), -1);
    empty_pieces += piece.empty();
    joined += piece;
  }
  EXPECT_EQ(joined, text);
  EXPECT_EQ(empty_pieces, 3 * 3 + 2 * 2 + 2 + 1);
  EXPECT_EQ(detokenizer.Finish(), "");
}

TEST(IncrementalDetokenizerTest, ReplacesHopelessBytesAtOnce) {
  const auto tokenizer = Load(ByteLevelVocabulary().writer);
  ASSERT_NE(tokenizer, nullptr);
  IncrementalDetokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.Append(0xFF), "\uFFFD");
  EXPECT_EQ(detokenizer.Append(0xF0), "");
  EXPECT_EQ(detokenizer.Append(0x9F), "");
  EXPECT_EQ(detokenizer.Append('a'), "\uFFFDa");
  EXPECT_EQ(detokenizer.Append(0xE2), "");
  EXPECT_EQ(detokenizer.Finish(), "\uFFFD");
  EXPECT_EQ(detokenizer.Finish(), "");
}

TEST(IncrementalDetokenizerTest, LeadingSpaceAsAsked) {
  const SentencePieceVocabulary vocabulary;
  const auto tokenizer = Load(vocabulary.writer);
  ASSERT_NE(tokenizer, nullptr);
  const uint32_t the = static_cast<uint32_t>(vocabulary.Id("▁the"));
  IncrementalDetokenizer continuing(*tokenizer);
  EXPECT_EQ(continuing.Append(the), " the");
  IncrementalDetokenizer beginning(*tokenizer, /*continues_text=*/false);
  EXPECT_EQ(beginning.Append(1), "");
  EXPECT_EQ(beginning.Append(the), "the");
  EXPECT_EQ(beginning.Append(the), " the");
}

}  // namespace
}  // namespace flexquant
