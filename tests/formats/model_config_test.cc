#include "common/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "tests/formats/test_support.h"

namespace flexquant {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Json = nlohmann::json;

Json LlamaJson() {
  return Json::parse(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192, "rms_norm_eps": 1e-05,
    "rope_theta": 100000, "rope_scaling": null, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    "torch_dtype": "bfloat16", "pad_token_id": 2})");
}

absl::StatusOr<ModelConfig> Read(const Json& json) { return ModelConfig::FromJson(json.dump()); }

TEST(ModelConfigTest, ReadsSmolLm2) {
  const auto config = Read(LlamaJson());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, "llama");
  EXPECT_EQ(config->head_dim, 64);
  EXPECT_EQ(config->num_kv_heads, 3);
  EXPECT_EQ(config->rope.theta, 100000.0);
  EXPECT_EQ(config->rope.scaling, RopeScaling::kNone);
  EXPECT_TRUE(config->tied_head);
  EXPECT_FALSE(config->qkv_bias);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(2));
  EXPECT_EQ(config->bos_token_id, 1);
  EXPECT_EQ(config->NumParameters(), 134515008U);
}

TEST(ModelConfigTest, ReadsLlama3ScalingByBothKeys) {
  for (const char* key : {"rope_type", "type"}) {
    Json json = LlamaJson();
    json["eos_token_id"] = {128, 129};
    json["rope_scaling"] = {{key, "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 4096}};
    const auto config = Read(json);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->rope.scaling, RopeScaling::kLlama3);
    EXPECT_EQ(config->rope.factor, 8.0);
    EXPECT_EQ(config->rope.original_max_position, 4096);
    EXPECT_THAT(config->eos_token_ids, ElementsAre(128, 129));
  }
  Json json = LlamaJson();
  json["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 5e5}};
  json.erase("rope_theta");
  const auto config = Read(json);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(config->rope.theta, 5e5);
}

TEST(ModelConfigTest, FamilyDefaults) {
  Json json = LlamaJson();
  json.erase("tie_word_embeddings");
  json["model_type"] = "qwen2";
  json["sliding_window"] = 4096;
  json["use_sliding_window"] = false;
  json["max_window_layers"] = 21;
  const auto qwen2 = Read(json);
  ASSERT_TRUE(qwen2.ok()) << qwen2.status();
  EXPECT_TRUE(qwen2->qkv_bias);
  EXPECT_FALSE(qwen2->o_bias);
  EXPECT_FALSE(qwen2->qk_norm);
  EXPECT_FALSE(qwen2->tied_head);
  EXPECT_EQ(qwen2->sliding_window, 0);
  json["model_type"] = "qwen3";
  json["head_dim"] = 128;
  const auto qwen3 = Read(json);
  ASSERT_TRUE(qwen3.ok()) << qwen3.status();
  EXPECT_TRUE(qwen3->qk_norm);
  EXPECT_FALSE(qwen3->qkv_bias);
  EXPECT_EQ(qwen3->q_size(), 9 * 128);
  json["model_type"] = "mistral";
  const auto mistral = Read(json);
  ASSERT_TRUE(mistral.ok()) << mistral.status();
  EXPECT_EQ(mistral->sliding_window, 4096);
  json["sliding_window"] = nullptr;
  EXPECT_EQ(Read(json)->sliding_window, 0);
  json["model_type"] = "llama";
  json["attention_bias"] = true;
  json["mlp_bias"] = true;
  const auto biased = Read(json);
  ASSERT_TRUE(biased.ok()) << biased.status();
  EXPECT_TRUE(biased->qkv_bias && biased->o_bias && biased->mlp_bias);
  json.erase("model_type");
  EXPECT_EQ(Read(json)->family, "llama");
}

bool Same(const ModelConfig& a, const ModelConfig& b) {
  return a.family == b.family && a.name == b.name && a.hidden_size == b.hidden_size &&
         a.intermediate_size == b.intermediate_size && a.num_layers == b.num_layers && a.num_heads == b.num_heads &&
         a.num_kv_heads == b.num_kv_heads && a.head_dim == b.head_dim && a.vocab_size == b.vocab_size &&
         a.max_context == b.max_context && a.sliding_window == b.sliding_window && a.rms_norm_eps == b.rms_norm_eps &&
         a.rope.theta == b.rope.theta && a.rope.scaling == b.rope.scaling && a.rope.factor == b.rope.factor &&
         a.rope.low_freq_factor == b.rope.low_freq_factor && a.rope.high_freq_factor == b.rope.high_freq_factor &&
         (a.rope.scaling != RopeScaling::kLlama3 || a.rope.original_max_position == b.rope.original_max_position) &&
         a.rope.frequency_divisors == b.rope.frequency_divisors && a.tied_head == b.tied_head &&
         a.qkv_bias == b.qkv_bias && a.o_bias == b.o_bias && a.mlp_bias == b.mlp_bias && a.qk_norm == b.qk_norm &&
         a.eos_token_ids == b.eos_token_ids && a.bos_token_id == b.bos_token_id;
}

TEST(ModelConfigTest, RoundTrip) {
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3"}) {
    for (int variant = 0; variant < 4; ++variant) {
      ModelConfig config = SmallConfig(family);
      config.rms_norm_eps = 1.0 / 3e5;
      config.tied_head = variant % 2 == 0;
      config.sliding_window = variant == 1 ? 17 : 0;
      config.qkv_bias = variant >= 2;
      config.o_bias = variant == 3;
      config.mlp_bias = variant == 1;
      config.qk_norm = variant == 2;
      config.bos_token_id = variant - 1;
      config.eos_token_ids = std::vector<uint32_t>(static_cast<size_t>(variant), 3);
      config.rope.theta = 1e6 / 3;
      config.rope.scaling = static_cast<RopeScaling>(variant % 3);
      config.rope.factor = variant % 3 > 0 ? 2.1 : 1.0;
      if (variant == 3) {
        config.rope.frequency_divisors = {1.0F, 8.0F / 3};
      }
      const auto read = ModelConfig::FromJson(config.ToJson());
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_TRUE(Same(config, *read)) << family << " " << variant << config.ToJson() << read->ToJson();
    }
  }
  ModelConfig odd = SmallConfig("llama");
  odd.name = "bad \xFF bytes";
  EXPECT_TRUE(ModelConfig::FromJson(odd.ToJson()).ok());
}

struct BadField {
  const char* field;
  Json value;
  absl::StatusCode code;
  const char* message;
};

TEST(ModelConfigTest, BadFieldsAreNamed) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  const std::vector<BadField> cases = {
      {"model_type", "gpt2", kUnimplemented, "gpt2"},
      {"hidden_act", "gelu", kUnimplemented, "gelu"},
      {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4}}, kUnimplemented, "yarn"},
      {"rope_scaling", "linear", kInvalid, "rope_scaling"},
      {"rope_scaling", {{"type", "linear"}, {"factor", 0}}, kInvalid, "rope_scaling.factor is 0"},
      {"rope_scaling", {{"type", "llama3"}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}, kInvalid, "high_freq"},
      {"hidden_size", nullptr, kInvalid, "hidden_size is missing"},
      {"hidden_size", "576", kInvalid, "hidden_size must be an integer"},
      {"hidden_size", 576.5, kInvalid, "hidden_size must be an integer"},
      {"hidden_size", UINT64_MAX, kInvalid, "hidden_size must be an integer"},
      {"hidden_size", -5, kInvalid, "hidden_size is -5"},
      {"num_hidden_layers", 1000000000, kInvalid, "num_hidden_layers is 1000000000"},
      {"num_attention_heads", 0, kInvalid, "num_attention_heads is 0"},
      {"num_key_value_heads", 2, kInvalid, "num_key_value_heads is 2; allowed: divisors"},
      {"num_key_value_heads", 18, kInvalid, "num_key_value_heads"},
      {"head_dim", 63, kInvalid, "head_dim is 63"},
      {"head_dim", 1024, kInvalid, "head_dim is 1024"},
      {"vocab_size", 1 << 30, kInvalid, "vocab_size"},
      {"max_position_embeddings", 0, kInvalid, "max_position_embeddings is 0"},
      {"rms_norm_eps", 0, kInvalid, "rms_norm_eps is 0"},
      {"rope_theta", -1, kInvalid, "rope_theta is -1"},
      {"eos_token_id", 49152, kInvalid, "eos_token_id is 49152"},
      {"eos_token_id", -1, kInvalid, "eos_token_id is -1"},
      {"eos_token_id", Json::array({"a"}), kInvalid, "eos_token_id"},
      {"bos_token_id", 70000, kInvalid, "bos_token_id is 70000"},
      {"tie_word_embeddings", 1, kInvalid, "tie_word_embeddings must be true or false"},
      {"rope_frequency_divisors", {1.0}, kInvalid, "rope_frequency_divisors"},
      {"rope_frequency_divisors", std::vector<float>(32, 0.0F), kInvalid, "rope_frequency_divisors is 0"},
      {"layer_types", {"sliding_attention", "full_attention"}, kUnimplemented, "1 of 30 layers"},
  };
  for (const BadField& bad : cases) {
    Json json = LlamaJson();
    json["sliding_window"] = 128;
    json[bad.field] = bad.value;
    const absl::Status status = Read(json).status();
    EXPECT_EQ(status.code(), bad.code) << bad.field << " " << bad.value << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message)) << bad.field;
  }
  for (const char* text : {"", "[]", "{", "null", "{\"model_type\": 3}"}) {
    EXPECT_FALSE(ModelConfig::FromJson(text).ok()) << text;
  }
}

TEST(ModelConfigTest, ChangedBytesNeverCrash) {
  int read = 0;
  Mutate(LlamaJson().dump(), 5000,
         [&read](const std::string& text) { read += ModelConfig::FromJson(text).ok() ? 1 : 0; });
  EXPECT_GT(read, 10);
}

}  // namespace
}  // namespace flexquant
