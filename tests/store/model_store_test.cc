#include "common/store/model_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "common/mapped_file.h"
#include "common/precision.h"
#include "common/store/convert.h"
#include "common/store/inspect.h"
#include "common/store/nested_quantizer.h"
#include "tests/testing/fake_model_source.h"

namespace flexquant {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class ModelStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "/flexquant_store_" + std::to_string(getpid()) + "_" +
            testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(root_);
    fs::create_directories(root_);
    folder_ = root_ + "/model";
  }
  void TearDown() override { fs::remove_all(root_); }

  ConvertReport MustConvert(const ConvertOptions& options = {}) {
    FakeModelSource source(FakeModelSource::TinyConfig());
    auto report = Convert(source, folder_, options);
    EXPECT_TRUE(report.ok()) << report.status();
    return *report;
  }
  // Nothing but what the test made: no staging folder.
  size_t NumEntries() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(root_), fs::directory_iterator()));
  }
  std::string Path(const char* file) const { return folder_ + "/" + file; }

  std::string root_;
  std::string folder_;
};

TEST_F(ModelStoreTest, RoundTrip) {
  ConvertOptions options;
  options.keep_reference = true;
  options.source_path = "/somewhere/tiny.gguf";
  options.num_threads = 2;
  uint64_t last_done = 0;
  uint64_t total = 0;
  options.progress = [&](uint64_t done, uint64_t all, const std::string& /*tensor*/) {
    EXPECT_GT(done, last_done);
    last_done = done;
    total = all;
  };
  const ConvertReport report = MustConvert(options);
  EXPECT_LE(last_done, total);
  EXPECT_GT(last_done, total * 9 / 10);
  EXPECT_EQ(NumEntries(), 1U);

  StoreOptions verify;
  verify.verify_checksum = true;
  const auto store = ModelStore::Open(folder_, verify);
  ASSERT_TRUE(store.ok()) << store.status();
  FakeModelSource source(FakeModelSource::TinyConfig());
  const ModelConfig config = source.config();
  EXPECT_EQ((*store)->config().ToJson(), config.ToJson());
  EXPECT_EQ((*store)->model_name(), "tiny");
  EXPECT_EQ((*store)->file_bytes(), report.file_bytes);
  EXPECT_TRUE((*store)->has_reference());
  EXPECT_EQ((*store)->num_layer_groups(), 9);

  // k's rows stand behind q's.
  const NestedMatrix& qkv = (*store)->block(1).qkv;
  ASSERT_EQ(qkv.rows, 64 + 32 + 32);
  const auto& k_proj = source.tensors().at("model.layers.1.self_attn.k_proj.weight");
  std::vector<float> row(64);
  DequantizeRow(qkv, 64 + 5, 8, absl::MakeSpan(row));
  const float* reference = static_cast<const float*>(qkv.reference) + (64 + 5) * 64;
  for (size_t i = 0; i < row.size(); ++i) {
    EXPECT_EQ(reference[i], k_proj[5 * 64 + i]);
    EXPECT_NEAR(row[i], k_proj[5 * 64 + i], 0.01F);
  }
  EXPECT_EQ((*store)->block(0).mlp_norm[3], source.tensors().at("model.layers.0.post_attention_layernorm.weight")[3]);
  EXPECT_TRUE((*store)->block(0).qkv_bias.empty());
  // Tied: the head is the embedding's planes.
  EXPECT_EQ((*store)->lm_head().base3, (*store)->embedding().base3);
  EXPECT_EQ(&(*store)->layer_group(8), &(*store)->lm_head());
  EXPECT_EQ((*store)->layer_group(LayerGroupIndex(1, LayerGroupKind::kDown)).cols, 96);
  EXPECT_EQ((*store)->LayerGroupWeights()[0], 128U * 64U);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(qkv.base3) % 64, 0U);
}

TEST_F(ModelStoreTest, EveryFamilysTensors) {
  ModelConfig config = FakeModelSource::TinyConfig();
  config.family = "qwen3";
  config.tied_head = false;
  config.qkv_bias = true;
  config.o_bias = true;
  config.mlp_bias = true;
  config.qk_norm = true;
  FakeModelSource source(config);
  source.set_reference_dtype(Dtype::kBF16);
  ConvertOptions options;
  options.keep_reference = true;
  ASSERT_TRUE(Convert(source, folder_, options).ok());
  const auto store = ModelStore::Open(folder_);
  ASSERT_TRUE(store.ok()) << store.status();
  const BlockWeights& block = (*store)->block(1);
  EXPECT_EQ(block.q_norm.size(), 16U);
  EXPECT_EQ(block.gate_up_bias.size(), 192U);
  EXPECT_EQ(block.qkv_bias[64 + 3], source.tensors().at("model.layers.1.self_attn.k_proj.bias")[3]);
  EXPECT_NE((*store)->lm_head().base3, (*store)->embedding().base3);
  EXPECT_EQ((*store)->lm_head().reference_dtype, Dtype::kBF16);
}

TEST_F(ModelStoreTest, StoredBitsStayWithinTheBudget) {
  ModelConfig config = FakeModelSource::TinyConfig();
  config.hidden_size = 576;
  config.head_dim = 64;
  config.num_heads = 9;
  config.num_kv_heads = 3;
  config.intermediate_size = 1536;
  config.num_layers = 1;
  config.vocab_size = 1024;  // rows are padded to 16, which a real vocabulary does not notice
  FakeModelSource source(config);
  const auto report = Convert(source, folder_, {});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GT(report->stored_bits_per_weight, 8.0);
  EXPECT_LE(report->stored_bits_per_weight, 8.5);
  for (size_t i = 1; i < report->relative_error.size(); ++i) {
    EXPECT_LT(report->relative_error[i], report->relative_error[i - 1]);
  }
}

TEST_F(ModelStoreTest, ExistingDestination) {
  MustConvert();
  FakeModelSource source(FakeModelSource::TinyConfig(), /*seed=*/2);
  EXPECT_EQ(Convert(source, folder_, {}).status().code(), absl::StatusCode::kAlreadyExists);
  const std::string old_revision = (*ModelStore::Open(folder_))->revision();
  ConvertOptions overwrite;
  overwrite.overwrite = true;
  ASSERT_TRUE(Convert(source, folder_ + "/", overwrite).ok());
  EXPECT_NE((*ModelStore::Open(folder_))->revision(), old_revision);
  EXPECT_EQ(NumEntries(), 1U);

  const std::string precious = root_ + "/precious";
  fs::create_directories(precious);
  ASSERT_TRUE(WriteFile(precious + "/thesis.txt", "x").ok());
  EXPECT_EQ(Convert(source, precious, overwrite).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(fs::exists(precious + "/thesis.txt"));
}

TEST_F(ModelStoreTest, InterruptedOrFailedConversionLeavesNothing) {
  FakeModelSource source(FakeModelSource::TinyConfig());
  int polls = 0;
  ConvertOptions options;
  options.cancelled = [&] { return ++polls > 3; };
  EXPECT_EQ(Convert(source, folder_, options).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(NumEntries(), 0U);

  source.tensors()["model.layers.1.mlp.up_proj.weight"][5] = std::numeric_limits<float>::quiet_NaN();
  const auto status = Convert(source, folder_, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.layers.1.mlp.up_proj.weight"));
  source.tensors().erase("model.norm.weight");
  EXPECT_EQ(Convert(source, folder_, {}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(NumEntries(), 0U);

  ConvertOptions bad_group;
  bad_group.group_size = 48;
  EXPECT_THAT(std::string(Convert(source, folder_, bad_group).status().message()), HasSubstr("32, 64, 128"));
  ConvertOptions bad_activations;
  bad_activations.fine_activations_from = 7;
  EXPECT_THAT(std::string(Convert(source, folder_, bad_activations).status().message()), HasSubstr("allowed are 6, 8"));
  EXPECT_FALSE(Convert(source, "/proc/nowhere/model", {}).ok());
}

TEST_F(ModelStoreTest, NotAPackage) {
  EXPECT_EQ(ModelStore::Open(root_ + "/missing").status().code(), absl::StatusCode::kNotFound);
  const auto status = ModelStore::Open(root_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("flexquant convert"));
}

TEST_F(ModelStoreTest, CorruptPackagesAreNamed) {
  ConvertOptions options;
  options.group_size = 128;
  MustConvert(options);
  const std::string manifest = *ReadFile(Path("flexquant.json"));
  const std::string weights = *ReadFile(Path("model.safetensors"));
  const auto open_with_manifest = [&](const std::string& from, const std::string& to) {
    std::string changed = manifest;
    const size_t at = changed.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    changed.replace(at, from.size(), to);
    EXPECT_TRUE(WriteFile(Path("flexquant.json"), changed).ok());
    const absl::Status status = ModelStore::Open(folder_).status();
    EXPECT_TRUE(WriteFile(Path("flexquant.json"), manifest).ok());
    return status;
  };
  EXPECT_THAT(std::string(open_with_manifest("\"format_version\": 1", "\"format_version\": 2").message()),
              HasSubstr("newer FlexQuant"));
  EXPECT_THAT(std::string(open_with_manifest("\"group_size\": 128", "\"group_size\": 100").message()),
              HasSubstr("group_size"));
  EXPECT_THAT(std::string(open_with_manifest("\"fine_activations_from\": 6", "\"fine_activations_from\": 7").message()),
              HasSubstr("\"fine_activations_from\" is 7; allowed are 6 and 8"));
  // Another group size means other shapes of the scales.
  EXPECT_FALSE(open_with_manifest("\"group_size\": 128", "\"group_size\": 32").ok());
  EXPECT_THAT(std::string(open_with_manifest("\"has_reference\": false", "\"has_reference\": true").message()),
              HasSubstr(".reference\" is missing"));
  EXPECT_FALSE(open_with_manifest("{", "").ok());

  ASSERT_TRUE(WriteFile(Path("model.safetensors"), weights.substr(0, weights.size() - 1)).ok());
  EXPECT_EQ(ModelStore::Open(folder_).status().code(), absl::StatusCode::kDataLoss);
  // A flipped weight is found by the checksum, and only then.
  std::string flipped = weights;
  flipped[weights.size() / 2] = static_cast<char>(flipped[weights.size() / 2] ^ 1);
  ASSERT_TRUE(WriteFile(Path("model.safetensors"), flipped).ok());
  EXPECT_TRUE(ModelStore::Open(folder_).ok());
  StoreOptions verify;
  verify.verify_checksum = true;
  EXPECT_EQ(ModelStore::Open(folder_, verify).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(ModelStoreTest, RandomDamageNeverCrashes) {
  MustConvert();
  std::mt19937 generator(11);
  for (const char* file : {"model.safetensors", "flexquant.json", "config.json"}) {
    const std::string whole = *ReadFile(Path(file));
    const size_t reach = std::min<size_t>(whole.size(), 6000);  // the header and all of the texts
    int refused = 0;
    for (int round = 0; round < 300; ++round) {
      std::string damaged = whole;
      for (int flips = 0; flips < 3; ++flips) {
        damaged[generator() % reach] = static_cast<char>(generator());
      }
      ASSERT_TRUE(WriteFile(Path(file), damaged).ok());
      refused += ModelStore::Open(folder_).ok() ? 0 : 1;
    }
    EXPECT_GT(refused, 100) << file;
    ASSERT_TRUE(WriteFile(Path(file), whole).ok());
  }
  EXPECT_TRUE(ModelStore::Open(folder_).ok());
}

TEST_F(ModelStoreTest, InspectionSaysWhatIsThere) {
  MustConvert();
  const auto text = InspectText(folder_);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, HasSubstr("tiny (llama)"));
  EXPECT_THAT(*text, HasSubstr("not verified"));
  StoreOptions verify;
  verify.verify_checksum = true;
  const auto json = InspectJson(folder_, verify);
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_THAT(*json, HasSubstr("\"checksum_verified\": true"));
  EXPECT_THAT(*json, HasSubstr("\"layers.1.down\""));
}

}  // namespace
}  // namespace flexquant
