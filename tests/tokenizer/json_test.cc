// Kinds of tokenizer.json that no real file of the test data shows.

#include <nlohmann/json.hpp>

#include "common/tokenizer/chat_template.h"
#include "common/tokenizer/tokenizer.h"
#include "tests/tokenizer/test_data.h"

namespace flexquant {
namespace {

using Json = nlohmann::json;
using testing::ElementsAre;

// SentencePiece-like, as files since 2024 write it; `scheme` says where a space is put in front.
Json MetaspaceJson(const std::string& scheme) {
  Json json = Json::parse(R"({
    "added_tokens": [{"id": 0, "content": "<unk>", "special": true}, {"id": 1, "content": "<s>", "special": true},
                     {"id": 2, "content": "</s>", "special": true}],
    "normalizer": null,
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {}},
                                                                {"SpecialToken": {"id": "</s>"}}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": false, "fuse_unk": true,
              "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "a": 4, "▁a": 5}, "merges": [["▁", "a"]]}})");
  const Json meta = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}, {"split", false}};
  json["pre_tokenizer"] = meta;
  json["decoder"] = meta;
  return json;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const Json& json, const std::string& config = "{}") {
  const test::TemporaryFolder folder;
  folder.Add("tokenizer_config.json", config);
  folder.Add("tokenizer.json", json.dump());
  return Tokenizer::Load(folder.path());
}

TEST(MetaspaceTest, FirstPutsASpaceOnlyAtTheStart) {
  const auto tokenizer = Load(MetaspaceJson("first"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const Tokenizer::EncodeOptions parse{.parse_special = true};
  EXPECT_THAT(*(*tokenizer)->Encode("a</s>a", parse), ElementsAre(5, 2, 4));
  EXPECT_THAT(*(*tokenizer)->Encode(" a", {}), ElementsAre(5));
  EXPECT_THAT(*(*tokenizer)->Encode("a", {.follows_special = true}), ElementsAre(4));
  EXPECT_EQ((*tokenizer)->Decode({1, 5, 5}), "a a");
}

TEST(MetaspaceTest, AlwaysAndNever) {
  const auto always = Load(MetaspaceJson("always"));
  const auto never = Load(MetaspaceJson("never"));
  ASSERT_TRUE(always.ok() && never.ok());
  const Tokenizer::EncodeOptions parse{.parse_special = true};
  EXPECT_THAT(*(*always)->Encode("a</s>a</s> a", parse), ElementsAre(5, 2, 5, 2, 5));
  EXPECT_THAT(*(*never)->Encode("a</s>a</s> a", parse), ElementsAre(4, 2, 4, 2, 5));
  EXPECT_EQ((*never)->Decode({5, 5}), " a a");
}

TEST(MetaspaceTest, ChatsPutNoSpaceBehindTheBeginning) {
  const auto tokenizer =
      Load(MetaspaceJson("first"), R"({"bos_token": "<s>", "eos_token": "</s>",
        "chat_template": [{"name": "default", "template":
        "{{ bos_token }}{{ '[INST]' + message['content'] + '[/INST]' }}{{ message.content + eos_token }}"}]})");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto chat = ChatTemplate::Recognize(**tokenizer);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_THAT(*(*chat)->Render({{"user", "a"}}), ElementsAre(1, 0, 4, 0));
}

TEST(PostProcessorTest, SaysWhatIsAddedUnlessTheConfigDoes) {
  const auto both = Load(MetaspaceJson("first"));
  ASSERT_TRUE(both.ok()) << both.status();
  const Tokenizer::EncodeOptions add{.add_special = true};
  EXPECT_THAT(*(*both)->Encode("a", add), ElementsAre(1, 5, 2));
  const auto none = Load(MetaspaceJson("first"), R"({"add_bos_token": false, "add_eos_token": false})");
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_THAT(*(*none)->Encode("a", add), ElementsAre(5));
}

TEST(UnknownTest, NeighboursFuseIfTheModelSaysSo) {
  Json json = MetaspaceJson("never");
  const auto fusing = Load(json);
  json["model"]["fuse_unk"] = false;
  const auto single = Load(json);
  ASSERT_TRUE(fusing.ok() && single.ok());
  EXPECT_THAT(*(*fusing)->Encode("a日本a", {}), ElementsAre(4, 0, 4));
  EXPECT_THAT(*(*single)->Encode("a日本a", {}), ElementsAre(4, 0, 0, 4));
}

}  // namespace
}  // namespace flexquant
