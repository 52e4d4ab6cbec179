// Against ids and chats made by other implementations: goldens.json, by make_goldens.py.

#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "common/tokenizer/chat_template.h"
#include "common/tokenizer/nfc.h"
#include "common/tokenizer/tokenizer.h"
#include "tests/tokenizer/synthetic_vocabulary.h"
#include "tests/tokenizer/test_data.h"

namespace flexquant {
namespace {

using Json = nlohmann::json;

const Json& Goldens() {
  static const Json* const kGoldens = new Json(Json::parse(test::Golden("goldens.json"), nullptr, false));
  return *kGoldens;
}

std::unique_ptr<Tokenizer> LoadOrFail(const std::string& path) {
  auto tokenizer = Tokenizer::Load(path);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? std::move(*tokenizer) : nullptr;
}

void ExpectGoldenIds(const Tokenizer& tokenizer, const std::string& name) {
  ASSERT_GT(Goldens()["vocabularies"][name].size(), 50u);
  for (const Json& pair : Goldens()["vocabularies"][name]) {
    const auto text = pair[0].get<std::string>();
    // Hugging Face has no way not to parse written-out special tokens.
    const auto ids = tokenizer.Encode(text, {.add_special = false, .parse_special = true});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, pair[1].get<std::vector<uint32_t>>()) << Json(text).dump();
  }
}

std::vector<ChatMessage> Messages(const Json& chat) {
  std::vector<ChatMessage> messages;
  for (const Json& message : chat["messages"]) messages.push_back({message[0], message[1]});
  return messages;
}

void ExpectGoldenChats(const Tokenizer& tokenizer, const Json& chats, const std::string& name) {
  const auto chat_template = ChatTemplate::Recognize(tokenizer);
  ASSERT_TRUE(chat_template.ok()) << chat_template.status();
  EXPECT_EQ((*chat_template)->name(), name);
  ASSERT_GE(chats.size(), 6u);
  for (const Json& chat : chats) {
    const auto ids = (*chat_template)->Render(Messages(chat));
    ASSERT_TRUE(ids.ok()) << ids.status();
    if (chat.contains("ids")) {
      EXPECT_EQ(*ids, chat["ids"].get<std::vector<uint32_t>>()) << chat.dump();
    } else {
      EXPECT_EQ(tokenizer.Decode(*ids, /*render_special=*/true), chat["text"].get<std::string>());
    }
  }
}

TEST(GoldenTest, Qwen3FromTokenizerJson) {
  const auto folder = test::DataDir() / "tokenizers" / "qwen3";
  FQ_SKIP_WITHOUT(folder);
  const auto tokenizer = LoadOrFail(folder.string());
  ASSERT_NE(tokenizer, nullptr);
  ExpectGoldenIds(*tokenizer, "qwen3");
  ExpectGoldenChats(*tokenizer, Goldens()["chats"]["qwen3"], "qwen3");
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_THAT(tokenizer->eos_ids(), testing::ElementsAre(151645, 151643));
  EXPECT_TRUE(tokenizer->IsSpecial(151644));
  EXPECT_FALSE(tokenizer->IsSpecial(151667)) << "<think> is text that a reader sees";
}

TEST(GoldenTest, Llama2FromTokenizerJson) {
  const auto folder = test::DataDir() / "tokenizers" / "llama2";
  FQ_SKIP_WITHOUT(folder);
  const auto tokenizer = LoadOrFail(folder.string());
  ASSERT_NE(tokenizer, nullptr);
  ExpectGoldenIds(*tokenizer, "llama2");
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_THAT(tokenizer->eos_ids(), testing::ElementsAre(2));
  EXPECT_EQ(ChatTemplate::Recognize(*tokenizer).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(GoldenTest, Llama2Chat) {
  const auto folder = test::DataDir() / "tokenizers" / "llama2";
  FQ_SKIP_WITHOUT(folder);
  const test::TemporaryFolder with_template;
  std::filesystem::create_symlink(std::filesystem::absolute(folder / "tokenizer.json"),
                                  with_template.path() + "/tokenizer.json");
  const Json config = {{"bos_token", "<s>"}, {"eos_token", {{"content", "</s>"}}}};
  with_template.Add("tokenizer_config.json", config.dump());
  with_template.Add("chat_template.jinja", Goldens()["templates"]["llama-2"]["template"].get<std::string>());
  const auto tokenizer = LoadOrFail(with_template.path());
  ASSERT_NE(tokenizer, nullptr);
  ExpectGoldenChats(*tokenizer, Goldens()["chats"]["llama2"], "llama-2");
}

TEST(GoldenTest, SmolLm2FromGguf) {
  const auto path = test::SmolLm2Gguf();
  FQ_SKIP_WITHOUT(path);
  const auto tokenizer = LoadOrFail(path.string());
  ASSERT_NE(tokenizer, nullptr);
  ExpectGoldenIds(*tokenizer, "smollm2");
  ExpectGoldenChats(*tokenizer, Goldens()["chats"]["smollm2"], "smollm2");
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_THAT(tokenizer->eos_ids(), testing::ElementsAre(2, 0));
}

class TemplateTest : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(TemplateTest, RendersAsJinjaDoes) {
  const auto [golden, name] = GetParam();
  const Json& entry = Goldens()["templates"][golden];
  test::ByteLevelVocabulary vocabulary;
  vocabulary.writer.SetString("tokenizer.chat_template", entry["template"].get<std::string>());
  const bool is_llama3 = std::string(golden).find("llama-3") == 0;
  vocabulary.writer.SetUint32("tokenizer.ggml.bos_token_id", vocabulary.Id(is_llama3 ? "<|begin_of_text|>" : "<s>"));
  vocabulary.writer.SetUint32("tokenizer.ggml.eos_token_id", vocabulary.Id(is_llama3 ? "<|eot_id|>" : "</s>"));
  const test::TemporaryFolder folder;
  const auto tokenizer = LoadOrFail(folder.Add("tokenizer.gguf", vocabulary.writer.Serialize()));
  ASSERT_NE(tokenizer, nullptr);
  ExpectGoldenChats(*tokenizer, entry["chats"], name);
}

using Names = std::pair<const char*, const char*>;
INSTANTIATE_TEST_SUITE_P(Families, TemplateTest,
                         testing::Values(Names("llama-2", "llama-2"), Names("llama-3", "llama-3"),
                                         Names("llama-3.1", "llama-3.1"), Names("mistral-v1", "mistral"),
                                         Names("mistral-v2", "mistral"), Names("mistral-v3", "mistral"),
                                         Names("chatml", "chatml"), Names("qwen2.5", "qwen2")));

TEST(GoldenTest, Nfc) {
  ASSERT_GT(Goldens()["nfc"].size(), 50u);
  for (const Json& pair : Goldens()["nfc"]) {
    EXPECT_EQ(ToNfc(pair[0].get<std::string>()), pair[1].get<std::string>()) << pair.dump();
  }
}

}  // namespace
}  // namespace flexquant
