#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>

#include "absl/strings/str_join.h"
#include "common/mapped_file.h"
#include "common/model_source.h"
#include "tests/formats/test_support.h"

namespace flexquant {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Tensors in one safetensors file, every value as fp32 or cut to bf16.
std::string Weights(const std::map<std::string, NamedTensor>& tensors, bool bf16) {
  std::string header;
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = data.size();
    for (const float value : tensor.values) {
      const auto bits = std::bit_cast<uint32_t>(value);
      if (bf16) {
        AppendValue(&data, static_cast<uint16_t>(bits >> 16));
      } else {
        AppendValue(&data, bits);
      }
    }
    absl::StrAppend(&header, header.empty() ? "{" : ",", "\"", name, R"(":{"dtype":")", bf16 ? "BF16" : "F32",
                    R"(","shape":[)", absl::StrJoin(tensor.shape, ","), R"(],"data_offsets":[)", begin, ",",
                    data.size(), "]}");
  }
  return SafetensorsBytes(header + "}", data);
}

void WriteModel(const TempFolder& folder, const ModelConfig& config, bool bf16 = false) {
  ASSERT_TRUE(WriteFile(folder / "config.json", config.ToJson()).ok());
  ASSERT_TRUE(WriteFile(folder / "model.safetensors", Weights(SmallTensors(config), bf16)).ok());
}

TEST(HuggingFaceSourceTest, EveryFamily) {
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3"}) {
    for (const bool bf16 : {false, true}) {
      const TempFolder folder;
      ModelConfig config = SmallConfig(family);
      config.tied_head = bf16;
      WriteModel(folder, config, bf16);
      const auto opened = OpenModelSource(folder.path());
      ASSERT_TRUE(opened.ok()) << opened.status();
      ModelSource& source = **opened;
      EXPECT_EQ(source.config().family, family);
      EXPECT_EQ(source.ReferenceDtype(), bf16 ? Dtype::kBF16 : Dtype::kF32);
      EXPECT_THAT(source.Description(), HasSubstr("Hugging Face safetensors, 1 file, "));
      for (const auto& [name, tensor] : SmallTensors(config)) {
        const auto values =
            source.ReadTensor(name, tensor.shape.size() == 2 ? tensor.shape[0] : 1, tensor.shape.back());
        ASSERT_TRUE(values.ok()) << values.status();
        for (size_t i = 0; i < values->size(); ++i) {
          const float cut = std::bit_cast<float>(std::bit_cast<uint32_t>(tensor.values[i]) & 0xFFFF0000U);
          ASSERT_EQ((*values)[i], bf16 ? cut : tensor.values[i]) << name;
        }
      }
    }
  }
}

TEST(HuggingFaceSourceTest, TiedHeadsCopyIsIgnored) {
  const TempFolder folder;
  ModelConfig config = SmallConfig("llama");
  config.tied_head = false;
  WriteModel(folder, config);
  config.tied_head = true;
  ASSERT_TRUE(WriteFile(folder / "config.json", config.ToJson()).ok());
  const auto source = OpenModelSource(folder.path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_FALSE((*source)->HasTensor("lm_head.weight"));
}

TEST(HuggingFaceSourceTest, GenerationConfigAddsEndTokens) {
  const TempFolder folder;
  WriteModel(folder, SmallConfig("llama"));
  ASSERT_TRUE(WriteFile(folder / "generation_config.json", R"({"eos_token_id": [7, 2, 9]})").ok());
  const auto source = OpenModelSource(folder.path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_THAT((*source)->config().eos_token_ids, ElementsAre(2, 7, 9));
  ASSERT_TRUE(WriteFile(folder / "generation_config.json", R"({"eos_token_id": 16})").ok());
  EXPECT_THAT(std::string(OpenModelSource(folder.path()).status().message()), HasSubstr("holds 16; allowed: 0 to 15"));
  ASSERT_TRUE(WriteFile(folder / "generation_config.json", "[").ok());
  EXPECT_EQ(OpenModelSource(folder.path()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(HuggingFaceSourceTest, SaveTokenizerCopiesWhatIsThere) {
  const TempFolder folder;
  const TempFolder target;
  WriteModel(folder, SmallConfig("llama"));
  const auto source = OpenModelSource(folder.path());
  ASSERT_TRUE(source.ok()) << source.status();
  const absl::Status missing = (*source)->SaveTokenizer(target.path());
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("no tokenizer.json"));
  ASSERT_TRUE(WriteFile(folder / "tokenizer.json", "{1}").ok());
  ASSERT_TRUE(WriteFile(folder / "chat_template.jinja", "{2}").ok());
  ASSERT_TRUE((*source)->SaveTokenizer(target.path()).ok());
  EXPECT_EQ(*ReadFile(target / "tokenizer.json"), "{1}");
  EXPECT_EQ(*ReadFile(target / "chat_template.jinja"), "{2}");
  EXPECT_FALSE(std::filesystem::exists(target / "tokenizer_config.json"));
  EXPECT_EQ((*source)->SaveTokenizer(target / "absent").code(), absl::StatusCode::kNotFound);
}

TEST(HuggingFaceSourceTest, BadFoldersAreRefused) {
  const ModelConfig config = SmallConfig("llama");
  const auto open = [&config](const std::function<void(std::map<std::string, NamedTensor>*)>& change) {
    const TempFolder folder;
    auto tensors = SmallTensors(config);
    change(&tensors);
    WriteFile(folder / "config.json", config.ToJson()).IgnoreError();
    WriteFile(folder / "model.safetensors", Weights(tensors, false)).IgnoreError();
    return OpenModelSource(folder.path()).status();
  };
  const absl::Status missing = open([](auto* tensors) { tensors->erase("model.norm.weight"); });
  EXPECT_EQ(missing.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("model.norm.weight is missing"));
  const absl::Status shape = open([](auto* tensors) { (*tensors)["model.norm.weight"].shape = {2, 4}; });
  EXPECT_EQ(shape.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(shape.message()), HasSubstr("has shape [2, 4]; its config needs [8]"));
  const absl::Status bias = open([](auto* tensors) {
    (*tensors)["model.layers.1.self_attn.q_proj.bias"] = {{1}, {0.5F}};
  });
  EXPECT_THAT(std::string(bias.message()), HasSubstr("model.layers.1.self_attn.q_proj.bias has no place"));
  EXPECT_TRUE(open([](auto* tensors) {
                (*tensors)["model.layers.0.self_attn.rotary_emb.inv_freq"] = {{1}, {0.5F}};
              }).ok());
}

TEST(HuggingFaceSourceTest, QuantisedAndForeignFoldersAreNamed) {
  const TempFolder folder;
  const absl::Status empty = OpenModelSource(folder.path()).status();
  EXPECT_EQ(empty.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(empty.message()), HasSubstr("no config.json"));
  WriteModel(folder, SmallConfig("llama"));
  std::string json = SmallConfig("llama").ToJson();
  json.insert(1, R"("quantization_config": {"quant_method": "gptq"},)");
  ASSERT_TRUE(WriteFile(folder / "config.json", json).ok());
  EXPECT_EQ(OpenModelSource(folder.path()).status().code(), absl::StatusCode::kUnimplemented);
  ASSERT_TRUE(WriteFile(folder / "config.json", "{").ok());
  EXPECT_EQ(OpenModelSource(folder.path()).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(WriteFile(folder / "flexquant.json", "{}").ok());
  EXPECT_THAT(std::string(OpenModelSource(folder.path()).status().message()), HasSubstr("converted model already"));
  ASSERT_TRUE(WriteFile(folder / "text.txt", "hello").ok());
  const absl::Status text = OpenModelSource(folder / "text.txt").status();
  EXPECT_EQ(text.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(text.message()), HasSubstr("supported: a GGUF file"));
  EXPECT_EQ(OpenModelSource(folder / "absent").status().code(), absl::StatusCode::kNotFound);
}

TEST(HuggingFaceSourceTest, WeightsMissingNamesTheRemedy) {
  const TempFolder folder;
  ASSERT_TRUE(WriteFile(folder / "config.json", SmallConfig("llama").ToJson()).ok());
  const absl::Status status = OpenModelSource(folder.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("pytorch_model.bin"));
}

}  // namespace
}  // namespace flexquant
