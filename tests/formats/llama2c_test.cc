#include "common/formats/llama2c.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/formats/gguf.h"
#include "common/mapped_file.h"
#include "tests/formats/test_support.h"

namespace flexquant {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string Header(const std::vector<int32_t>& values) {
  std::string out;
  for (const int32_t value : values) {
    AppendValue(&out, value);
  }
  return out;
}

std::string VocabularyBytes(int size) {
  std::string out;
  AppendValue<int32_t>(&out, 4);
  for (int id = 0; id < size; ++id) {
    const std::string piece = id == 1 ? "\n<s>\n" : id == 3 ? "<0x00>" : absl::StrCat(" ", id);
    AppendValue(&out, -static_cast<float>(id));
    AppendValue(&out, static_cast<int32_t>(piece.size()));
    out += piece;
  }
  return out;
}

constexpr int kVocabulary = 16;

// dim 8, hidden 12, one layer, two heads and one KV head; values count up in the file's order.
std::string SmallCheckpoint(bool tied) {
  std::string out = Header({8, 12, 1, 2, 1, tied ? kVocabulary : -kVocabulary, 10});
  const int tensors = 16 * 8 + 8 + 64 + 32 + 32 + 64 + 8 + 3 * 96 + 8 + 10 * 4 + (tied ? 0 : 16 * 8);
  for (int i = 0; i < tensors; ++i) {
    AppendValue(&out, static_cast<float>(i));
  }
  return out;
}

TEST(Llama2cTest, TensorsFollowTheHeader) {
  for (const bool tied : {true, false}) {
    const TempFolder folder;
    ASSERT_TRUE(WriteFile(folder / "small.bin", SmallCheckpoint(tied)).ok());
    ASSERT_TRUE(WriteFile(folder / "tok16.bin", VocabularyBytes(kVocabulary)).ok());
    ASSERT_TRUE(WriteFile(folder / "tok99.bin", "not this one").ok());
    const auto opened = OpenModelSource(folder / "small.bin");
    ASSERT_TRUE(opened.ok()) << opened.status();
    ModelSource& source = **opened;
    EXPECT_EQ(source.config().name, "small");
    EXPECT_EQ(source.config().tied_head, tied);
    EXPECT_EQ(source.config().max_context, 10);
    EXPECT_THAT(*source.ReadTensor("model.layers.0.input_layernorm.weight", 1, 8),
                ElementsAre(128, 129, 130, 131, 132, 133, 134, 135));
    // Rows 0, 2, 1, 3 of each head: neighbours become halves.
    const auto q = source.ReadTensor("model.layers.0.self_attn.q_proj.weight", 8, 8);
    ASSERT_TRUE(q.ok()) << q.status();
    for (int head = 0; head < 2; ++head) {
      EXPECT_EQ((*q)[static_cast<size_t>(head * 32 + 0)], static_cast<float>(136 + head * 32));
      EXPECT_EQ((*q)[static_cast<size_t>(head * 32 + 8)], static_cast<float>(136 + head * 32 + 16));
      EXPECT_EQ((*q)[static_cast<size_t>(head * 32 + 16)], static_cast<float>(136 + head * 32 + 8));
      EXPECT_EQ((*q)[static_cast<size_t>(head * 32 + 24)], static_cast<float>(136 + head * 32 + 24));
    }
    EXPECT_EQ((*source.ReadTensor("model.layers.0.self_attn.v_proj.weight", 4, 8))[0], 232);
    EXPECT_EQ((*source.ReadTensor("model.layers.0.mlp.gate_proj.weight", 12, 8))[0], 336);
    EXPECT_EQ((*source.ReadTensor("model.layers.0.mlp.down_proj.weight", 8, 12))[0], 432);
    EXPECT_EQ((*source.ReadTensor("model.layers.0.mlp.up_proj.weight", 12, 8))[0], 528);
    EXPECT_EQ((*source.ReadTensor("model.norm.weight", 1, 8))[7], 631);
    EXPECT_EQ(source.HasTensor("lm_head.weight"), !tied);
    if (!tied) {
      EXPECT_EQ((*source.ReadTensor("lm_head.weight", 16, 8))[0], 672);
    }
  }
}

TEST(Llama2cTest, SavesTheTokenizerAsGguf) {
  const TempFolder folder;
  ASSERT_TRUE(WriteFile(folder / "small.bin", SmallCheckpoint(true)).ok());
  ASSERT_TRUE(WriteFile(folder / "other.bin", VocabularyBytes(kVocabulary)).ok());
  const auto source = OpenModelSource(folder / "small.bin", folder / "other.bin");
  ASSERT_TRUE(source.ok()) << source.status();
  ASSERT_TRUE((*source)->SaveTokenizer(folder.path()).ok());
  const auto saved = GgufFile::Open(folder / "tokenizer.gguf");
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(*saved->GetString("tokenizer.ggml.model"), "llama");
  const auto tokens = *saved->GetStringArray("tokenizer.ggml.tokens");
  ASSERT_EQ(tokens.size(), 16U);
  EXPECT_EQ(tokens[1], "<s>");
  EXPECT_EQ(tokens[5],
            "\u2581"
            "5");
  EXPECT_THAT(saved->GetIntArray("tokenizer.ggml.token_type")->at(3), 6);
  EXPECT_EQ(saved->GetFloatArray("tokenizer.ggml.scores")->at(5), -5.0F);
  EXPECT_EQ(*saved->GetUint64("tokenizer.ggml.bos_token_id"), 1U);
  EXPECT_TRUE(*saved->GetBool("tokenizer.ggml.add_bos_token"));
}

TEST(Llama2cTest, BadCheckpointsAreRefused) {
  const TempFolder folder;
  ASSERT_TRUE(WriteFile(folder / "tok16.bin", VocabularyBytes(kVocabulary)).ok());
  struct Case {
    std::string bytes;
    absl::StatusCode code;
    const char* message;
  };
  const std::string good = SmallCheckpoint(true);
  const std::vector<Case> cases = {
      {"", absl::StatusCode::kDataLoss, "has 0 bytes"},
      {good.substr(0, good.size() - 4), absl::StatusCode::kDataLoss, "needs exactly"},
      {good + "1234", absl::StatusCode::kInvalidArgument, "needs exactly"},
      {Header({0x616b3432, 1, 0, 0, 0, 0, 0}), absl::StatusCode::kInvalidArgument, "version 1; supported: 0"},
      {Header({8, 12, 1, 2, 1, 0, 10}), absl::StatusCode::kInvalidArgument, "vocab_size is 0"},
      {Header({8, 12, 1, 2, 1, INT32_MIN, 10}), absl::StatusCode::kInvalidArgument, "vocab_size is 2147483648"},
      {Header({8, 12, INT32_MAX, 2, 1, 16, 10}), absl::StatusCode::kInvalidArgument, "num_hidden_layers"},
      {Header({1 << 20, 1 << 22, 4096, 2048, 1, 1 << 24, 10}), absl::StatusCode::kDataLoss, "needs exactly"},
      {Header({8, 12, 1, 3, 1, 16, 10}), absl::StatusCode::kInvalidArgument, ""},
      {Header({-8, 12, 1, 2, 1, 16, 10}), absl::StatusCode::kInvalidArgument, "hidden_size is -8"},
  };
  for (const Case& bad : cases) {
    ASSERT_TRUE(WriteFile(folder / "bad.bin", bad.bytes).ok());
    const absl::Status status = OpenModelSource(folder / "bad.bin").status();
    EXPECT_EQ(status.code(), bad.code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message));
    EXPECT_THAT(std::string(status.message()), HasSubstr("bad.bin"));
  }
}

TEST(Llama2cTest, TokenizersAreFoundOrNamed) {
  const TempFolder folder;
  ASSERT_TRUE(WriteFile(folder / "small.bin", SmallCheckpoint(true)).ok());
  const absl::Status none = OpenModelSource(folder / "small.bin").status();
  EXPECT_EQ(none.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(none.message()), HasSubstr("tok16.bin"));
  ASSERT_TRUE(WriteFile(folder / "tokenizer.bin", VocabularyBytes(kVocabulary + 1)).ok());
  EXPECT_THAT(std::string(OpenModelSource(folder / "small.bin").status().message()), HasSubstr("after token 15"));
  ASSERT_TRUE(WriteFile(folder / "tokenizer.bin", VocabularyBytes(kVocabulary - 1)).ok());
  EXPECT_EQ(OpenModelSource(folder / "small.bin").status().code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(WriteFile(folder / "tokenizer.bin", VocabularyBytes(kVocabulary)).ok());
  EXPECT_TRUE(OpenModelSource(folder / "small.bin").ok());
}

TEST(Llama2cTest, ChangedVocabulariesNeverReadOutside) {
  int read = 0;
  Mutate(VocabularyBytes(kVocabulary), 10000, [&read](const std::string& text) {
    const std::vector<uint8_t> exact(text.begin(), text.end());
    read += ParseLlama2cVocabulary(exact, kVocabulary, "tok.bin").ok() ? 1 : 0;
  });
  EXPECT_GT(read, 10);
}

TEST(Llama2cTest, Stories260K) {
  const std::string path = SharedPath("models/stories260K/stories260K.bin");
  if (path.empty()) {
    GTEST_SKIP() << "shared data is absent";
  }
  const auto opened = OpenModelSource(path);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const ModelConfig& config = (*opened)->config();
  EXPECT_EQ(config.hidden_size, 64);
  EXPECT_EQ(config.intermediate_size, 172);
  EXPECT_EQ(config.num_layers, 5);
  EXPECT_EQ(config.num_heads, 8);
  EXPECT_EQ(config.num_kv_heads, 4);
  EXPECT_EQ(config.vocab_size, 512);
  EXPECT_TRUE(config.tied_head);
  EXPECT_EQ((*opened)->ReferenceDtype(), Dtype::kF32);
  EXPECT_TRUE((*opened)->ReadTensor("model.layers.4.mlp.down_proj.weight", 64, 172).ok());
  const TempFolder folder;
  ASSERT_TRUE((*opened)->SaveTokenizer(folder.path()).ok());
  const auto saved = GgufFile::Open(folder / "tokenizer.gguf");
  ASSERT_TRUE(saved.ok()) << saved.status();
  const auto tokens = *saved->GetStringArray("tokenizer.ggml.tokens");
  EXPECT_EQ(tokens.size(), 512U);
  EXPECT_EQ(tokens[13], "<0x0A>");
  EXPECT_EQ(tokens[403],
            "\u2581"
            "Once");
}

}  // namespace
}  // namespace flexquant
