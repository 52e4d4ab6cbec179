#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <random>

#include "common/formats/gguf.h"
#include "common/mapped_file.h"
#include "common/model_source.h"
#include "common/status_macros.h"
#include "tests/formats/test_support.h"

namespace flexquant {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// What a converter does to q and k of the llama architecture: rows (half, i) of a head become rows (i, half).
std::vector<float> Interleave(const std::vector<float>& values, int64_t head_dim, int64_t cols) {
  std::vector<float> out;
  const int64_t rows = static_cast<int64_t>(values.size()) / cols;
  for (int64_t head = 0; head < rows / head_dim; ++head) {
    for (int64_t i = 0; i < head_dim / 2; ++i) {
      for (int64_t half = 0; half < 2; ++half) {
        const auto row = values.begin() + (head * head_dim + half * (head_dim / 2) + i) * cols;
        out.insert(out.end(), row, row + cols);
      }
    }
  }
  return out;
}

TestGguf SmallGguf(const ModelConfig& config) {
  TestGguf file;
  const std::string& arch = config.family;
  const auto number = [&file, &arch](const char* key, int64_t value) {
    file.AddUint32(absl::StrCat(arch, ".", key), static_cast<uint32_t>(value));
  };
  file.AddString("general.architecture", arch);
  file.AddString("general.name", config.name);
  number("embedding_length", config.hidden_size);
  number("feed_forward_length", config.intermediate_size);
  number("block_count", config.num_layers);
  number("attention.head_count", config.num_heads);
  number("attention.head_count_kv", config.num_kv_heads);
  number("context_length", config.max_context);
  file.AddFloat(arch + ".attention.layer_norm_rms_epsilon", 1e-5F);
  file.AddFloat(arch + ".rope.freq_base", 5e5F);
  file.AddString("tokenizer.ggml.model", "gpt2");
  file.AddUint32("tokenizer.ggml.eos_token_id", 2);
  file.AddUint32("tokenizer.ggml.eot_token_id", 3);
  file.AddUint32("tokenizer.ggml.bos_token_id", 1);
  file.AddString("tokenizer.chat_template", "{{ messages }}");
  for (const auto& [name, tensor] : SmallTensors(config)) {
    std::vector<float> values = tensor.values;
    const bool rotated = name.find("q_proj") != std::string::npos || name.find("k_proj") != std::string::npos;
    if (arch == "llama" && rotated) {
      values = Interleave(values, config.head_dim, tensor.shape.size() == 2 ? tensor.shape[1] : 1);
    }
    file.tensors.push_back({GgufName(name), {tensor.shape.rbegin(), tensor.shape.rend()}, 0, FloatBytes(values)});
  }
  return file;
}

absl::StatusOr<std::unique_ptr<ModelSource>> OpenBytes(const TempFolder& folder, const std::string& bytes) {
  const std::string path = folder / "model.gguf";
  FQ_RETURN_IF_ERROR(WriteFile(path, bytes));
  return OpenModelSource(path);
}

void ExpectSmallTensors(ModelSource* source, const ModelConfig& config) {
  for (const auto& [name, tensor] : SmallTensors(config)) {
    ASSERT_TRUE(source->HasTensor(name)) << name;
    const bool matrix = tensor.shape.size() == 2;
    const auto values = source->ReadTensor(name, matrix ? tensor.shape[0] : 1, tensor.shape.back());
    ASSERT_TRUE(values.ok()) << values.status();
    EXPECT_EQ(*values, tensor.values) << name;
  }
}

TEST(GgufSourceTest, EveryFamilyInHuggingFaceConventions) {
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    for (const bool tied : {true, false}) {
      for (const bool bias : {true, false}) {
        const TempFolder folder;
        ModelConfig config = SmallConfig(family);
        config.tied_head = tied;
        config.qkv_bias = bias;
        const auto source = OpenBytes(folder, SmallGguf(config).Bytes());
        ASSERT_TRUE(source.ok()) << family << source.status();
        ExpectSmallTensors(source->get(), config);
        const ModelConfig& read = (*source)->config();
        EXPECT_EQ(read.family, family);
        EXPECT_EQ(read.name, "small");
        EXPECT_EQ(read.head_dim, 4);
        EXPECT_EQ(read.num_kv_heads, 1);
        EXPECT_EQ(read.vocab_size, 16);
        EXPECT_EQ(read.tied_head, tied);
        EXPECT_EQ(read.qkv_bias, bias);
        EXPECT_EQ(read.rope.theta, 5e5);
        EXPECT_THAT(read.eos_token_ids, ElementsAre(2, 3));
        EXPECT_EQ(read.bos_token_id, 1);
        EXPECT_EQ((*source)->HasTensor("lm_head.weight"), !tied);
        EXPECT_THAT((*source)->Description(), HasSubstr("GGUF, "));
      }
    }
  }
}

TEST(GgufSourceTest, RopeScalingAndHeadSize) {
  const TempFolder folder;
  const ModelConfig config = SmallConfig("llama");
  TestGguf file = SmallGguf(config);
  file.AddString("llama.rope.scaling.type", "linear");
  file.AddFloat("llama.rope.scaling.factor", 4.0F);
  file.tensors.push_back({"rope_freqs.weight", {2}, 0, FloatBytes({1.0F, 8.0F})});
  const auto source = OpenBytes(folder, file.Bytes());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->config().rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ((*source)->config().rope.factor, 4.0);
  EXPECT_THAT((*source)->config().rope.frequency_divisors, ElementsAre(1.0F, 8.0F));

  ModelConfig wide = SmallConfig("qwen3");
  wide.head_dim = 8;
  TestGguf other = SmallGguf(wide);
  other.AddUint32("qwen3.attention.key_length", 8);
  other.AddUint32("qwen3.attention.value_length", 8);
  const auto wide_source = OpenBytes(folder, other.Bytes());
  ASSERT_TRUE(wide_source.ok()) << wide_source.status();
  ExpectSmallTensors(wide_source->get(), wide);
}

TEST(GgufSourceTest, SaveTokenizerKeepsTheVocabulary) {
  const TempFolder folder;
  const auto source = OpenBytes(folder, SmallGguf(SmallConfig("llama")).Bytes());
  ASSERT_TRUE(source.ok()) << source.status();
  ASSERT_TRUE((*source)->SaveTokenizer(folder.path()).ok());
  const auto saved = GgufFile::Open(folder / "tokenizer.gguf");
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(*saved->GetString("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(*saved->GetString("tokenizer.chat_template"), "{{ messages }}");
  EXPECT_TRUE(saved->tensors().empty());
  EXPECT_FALSE(saved->Has("llama.block_count"));
}

TEST(GgufSourceTest, ReadErrorsNameTheTensor) {
  const TempFolder folder;
  const ModelConfig config = SmallConfig("llama");
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    TestGguf file = SmallGguf(config);
    std::vector<float> values(8, 1.0F);
    values[7] = bad;
    for (TestTensor& tensor : file.tensors) {
      if (tensor.name == "output_norm.weight") {
        tensor.data = FloatBytes(values);
      }
    }
    const auto source = OpenBytes(folder, file.Bytes());
    ASSERT_TRUE(source.ok()) << source.status();
    const absl::Status status = (*source)->ReadTensor("model.norm.weight", 1, 8).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr("model.norm.weight holds NaN or infinite"));
  }
  const auto source = OpenBytes(folder, SmallGguf(config).Bytes());
  ASSERT_TRUE(source.ok());
  EXPECT_EQ((*source)->ReadTensor("nothing", 1, 8).status().code(), absl::StatusCode::kNotFound);
  const absl::Status shape = (*source)->ReadTensor("model.norm.weight", 2, 4).status();
  EXPECT_EQ(shape.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(shape.message()), HasSubstr("has shape [8]; needed: [2, 4]"));
}

struct BadModel {
  const char* what;
  std::function<void(TestGguf*)> change;
  absl::StatusCode code;
  const char* message;
};

TEST(GgufSourceTest, BadModelsAreRefused) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  const auto set = [](const char* key, uint32_t value) {
    return [key, value](TestGguf* file) {
      std::erase_if(file->metadata, [key](const auto& entry) { return entry.first == key; });
      file->AddUint32(key, value);
    };
  };
  const auto text = [](const char* key, const char* value) {
    return [key, value](TestGguf* file) {
      std::erase_if(file->metadata, [key](const auto& entry) { return entry.first == key; });
      file->AddString(key, value);
    };
  };
  const std::vector<BadModel> cases = {
      {"family", text("general.architecture", "gemma"), kUnimplemented, "\"gemma\"; supported: llama"},
      {"experts", set("llama.expert_count", 8), kUnimplemented, "expert_count is 8"},
      {"parts", set("split.count", 2), kUnimplemented, "one of 2 parts"},
      {"partial rotation", set("llama.rope.dimension_count", 2), kUnimplemented, "dimension_count is 2"},
      {"value length", set("llama.attention.value_length", 2), kUnimplemented, "value_length is 2"},
      {"scaling", text("llama.rope.scaling.type", "yarn"), kUnimplemented, "yarn"},
      {"heads", set("llama.attention.head_count", 3), kInvalid, ""},
      {"no heads", set("llama.attention.head_count", 0), kInvalid, "num_attention_heads is 0"},
      {"huge layers", set("llama.block_count", UINT32_MAX), kInvalid, "num_hidden_layers"},
      {"one layer too many", set("llama.block_count", 3), absl::StatusCode::kDataLoss, "model.layers.2."},
      {"one layer too few", set("llama.block_count", 1), kInvalid, "model.layers.1."},
      {"text for a number", text("llama.block_count", "two"), kInvalid, "llama.block_count must be an integer"},
      {"shape", set("llama.feed_forward_length", 11), kInvalid, "its config needs [11, 8]"},
      {"eos", set("tokenizer.ggml.eos_token_id", 16), kInvalid, "eos_token_id is 16"},
      {"unknown tensor",
       [](TestGguf* f) {
         f->tensors.push_back({"blk.0.odd.weight", {1}, 0, FloatBytes({1})});
       },
       kInvalid, "model.layers.0.odd.weight has no place"},
      {"divisors",
       [](TestGguf* f) {
         f->tensors.push_back({"rope_freqs.weight", {1}, 0, FloatBytes({1})});
       },
       kInvalid, "rope_frequency_divisors"},
      {"zero divisor",
       [](TestGguf* f) {
         f->tensors.push_back({"rope_freqs.weight", {2}, 0, FloatBytes({0, 1})});
       },
       kInvalid, "rope_frequency_divisors is 0"},
  };
  const TempFolder folder;
  for (const BadModel& bad : cases) {
    TestGguf file = SmallGguf(SmallConfig("llama"));
    bad.change(&file);
    const absl::Status status = OpenBytes(folder, file.Bytes()).status();
    EXPECT_EQ(status.code(), bad.code) << bad.what << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message)) << bad.what;
  }
}

TEST(GgufSourceTest, ReferenceDtypeLosesNothing) {
  const TempFolder folder;
  const ModelConfig config = SmallConfig("llama");
  TestGguf file = SmallGguf(config);
  // SmallTensors counts up to some hundreds: more than bf16's eight bits of mantissa.
  EXPECT_EQ((*OpenBytes(folder, file.Bytes()))->ReferenceDtype(), Dtype::kF32);
  for (TestTensor& tensor : file.tensors) {
    tensor.data = FloatBytes(std::vector<float>(tensor.data.size() / 4, 0.75F));
  }
  EXPECT_EQ((*OpenBytes(folder, file.Bytes()))->ReferenceDtype(), Dtype::kBF16);
}

TEST(GgufSourceTest, ChangedModelsNeverCrash) {
  const TempFolder folder;
  const ModelConfig config = SmallConfig("llama");
  // All but the tensors' data is worth changing.
  TestGguf file = SmallGguf(config);
  const std::string good = file.Bytes();
  size_t data_bytes = 0;
  for (const TestTensor& tensor : file.tensors) {
    data_bytes += (tensor.data.size() + 31) / 32 * 32;
  }
  std::mt19937 random(99);
  int opened = 0;
  for (int round = 0; round < 400; ++round) {
    std::string bytes = good;
    for (size_t i = 0; i < 1 + random() % 3; ++i) {
      bytes[random() % (good.size() - data_bytes)] = static_cast<char>(random() % 256);
    }
    const auto source = OpenBytes(folder, bytes);
    if (!source.ok()) {
      continue;
    }
    ++opened;
    for (const auto& [name, tensor] : SmallTensors(config)) {
      (void)(*source)->ReadTensor(name, tensor.shape.size() == 2 ? tensor.shape[0] : 1, tensor.shape.back());
    }
    (void)(*source)->ReferenceDtype();
  }
  EXPECT_GT(opened, 10);
}

std::optional<std::string> FindSmolLm2() {
  const char* named = getenv("FLEXQUANT_SMOLLM2_GGUF");
  if (named != nullptr && std::filesystem::exists(named)) {
    return named;
  }
  const char* cache = getenv("FLEXQUANT_CACHE");
  const std::string folder = cache != nullptr ? cache : SourceFolder() + "/.cache";
  if (!std::filesystem::is_directory(folder)) {
    return std::nullopt;
  }
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().filename() == "SmolLM2-135M-Instruct.Q4_1.gguf") {
      return entry.path().string();
    }
  }
  return std::nullopt;
}

TEST(GgufSourceTest, SmolLm2) {
  const auto path = FindSmolLm2();
  if (!path) {
    GTEST_SKIP() << "SmolLM2 is absent: set FLEXQUANT_SMOLLM2_GGUF, or run deploy/quickstart.sh once";
  }
  const auto opened = OpenModelSource(*path);
  ASSERT_TRUE(opened.ok()) << opened.status();
  ModelSource& source = **opened;
  const ModelConfig& config = source.config();
  EXPECT_EQ(config.NumParameters(), 134515008U);
  EXPECT_TRUE(config.tied_head);
  EXPECT_EQ(config.rope.theta, 100000.0);
  EXPECT_EQ(config.max_context, 8192);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(2));
  EXPECT_EQ(source.ReferenceDtype(), Dtype::kF32);
  EXPECT_EQ(source.Description(), "GGUF, 272 tensors (F32: 61, Q4_1: 210, Q8_0: 1)");
  const auto start = std::chrono::steady_clock::now();
  double squares = 0;
  uint64_t count = 0;
  const auto read = [&source, &squares, &count](const std::string& name, int64_t rows, int64_t cols) {
    const auto values = source.ReadTensor(name, rows, cols);
    ASSERT_TRUE(values.ok()) << values.status();
    count += values->size();
    for (const float value : *values) {
      squares += static_cast<double>(value) * static_cast<double>(value);
    }
  };
  read("model.embed_tokens.weight", config.vocab_size, config.hidden_size);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string block = absl::StrCat("model.layers.", layer, ".");
    read(block + "self_attn.q_proj.weight", config.q_size(), config.hidden_size);
    read(block + "self_attn.k_proj.weight", config.kv_size(), config.hidden_size);
    read(block + "self_attn.v_proj.weight", config.kv_size(), config.hidden_size);
    read(block + "self_attn.o_proj.weight", config.hidden_size, config.q_size());
    read(block + "mlp.gate_proj.weight", config.intermediate_size, config.hidden_size);
    read(block + "mlp.up_proj.weight", config.intermediate_size, config.hidden_size);
    read(block + "mlp.down_proj.weight", config.hidden_size, config.intermediate_size);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("SmolLM2: %lu weights read in %.2f s, root mean square %.5f\n", count, seconds.count(),
              std::sqrt(squares / static_cast<double>(count)));
  EXPECT_EQ(count, 134515008U - 61U * 576U);
  const TempFolder folder;
  ASSERT_TRUE(source.SaveTokenizer(folder.path()).ok());
  const auto tokenizer = GgufFile::Open(folder / "tokenizer.gguf");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*tokenizer->GetString("tokenizer.ggml.pre"), "smollm");
  EXPECT_EQ(tokenizer->GetStringArray("tokenizer.ggml.tokens")->size(), 49152U);
}

}  // namespace
}  // namespace flexquant
