#include "common/store/random_package.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <vector>

#include "common/store/model_store.h"
#include "common/store/nested_quantizer.h"
#include "tests/testing/fake_model_source.h"

namespace flexquant {
namespace {

class RandomPackageTest : public ::testing::Test {
 protected:
  RandomPackageTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "flexquant-random.XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~RandomPackageTest() override { std::filesystem::remove_all(folder_); }
  std::string path() const { return folder_ + "/package"; }

  static absl::Status Write(const ModelConfig& config, int64_t group_size, const std::string& path) {
    return WriteRandomPackage(config, group_size, path, [](uint64_t, uint64_t) { return absl::OkStatus(); });
  }

  std::string folder_;
};

TEST_F(RandomPackageTest, IsAPackageWhoseWeightsAreSpreadAsPromised) {
  ModelConfig config = FakeModelSource::TinyConfig();
  config.family = "qwen3";
  config.tied_head = false;
  config.qkv_bias = true;
  config.qk_norm = true;
  for (const int64_t group_size : {32, 64, 128}) {
    std::filesystem::remove_all(path());
    ASSERT_TRUE(Write(config, group_size, path()).ok());
    StoreOptions options;
    options.verify_checksum = true;
    const auto store = ModelStore::Open(path(), options);
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ((*store)->group_size(), group_size);
    for (int group = 0; group < (*store)->num_layer_groups(); ++group) {
      const NestedMatrix& w = (*store)->layer_group(group);
      std::vector<float> row(static_cast<size_t>(w.cols));
      double sum = 0;
      double squares = 0;
      for (int64_t n = 0; n < w.rows; ++n) {
        DequantizeRow(w, n, 8, absl::MakeSpan(row));
        for (const float x : row) {
          sum += static_cast<double>(x);
          squares += static_cast<double>(x) * static_cast<double>(x);
        }
      }
      const auto count = static_cast<double>(w.num_weights());
      EXPECT_NEAR(std::sqrt(squares / count), 0.018, 0.001) << group;
      EXPECT_NEAR(sum / count, 0.0, 0.0015) << group;
    }
    EXPECT_EQ((*store)->final_norm()[0], 1.0F);
    EXPECT_EQ((*store)->block(1).q_norm.back(), 1.0F);
    EXPECT_EQ((*store)->block(1).qkv_bias.back(), 0.0F);
  }
}

TEST_F(RandomPackageTest, LeavesNothingBehindWhenItIsEnded) {
  int tensors = 0;
  const absl::Status status =
      WriteRandomPackage(FakeModelSource::TinyConfig(), 64, path(), [&tensors](uint64_t done, uint64_t total) {
        EXPECT_LT(done, total);
        return ++tensors < 5 ? absl::OkStatus() : absl::CancelledError("enough");
      });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(RandomPackageTest, RefusesBadConfigsAndWhatExists) {
  ModelConfig config = FakeModelSource::TinyConfig();
  config.num_layers = 0;
  EXPECT_THAT(std::string(Write(config, 64, path()).message()), ::testing::HasSubstr("num_hidden_layers"));
  EXPECT_EQ(Write(FakeModelSource::TinyConfig(), 64, folder_).code(), absl::StatusCode::kAlreadyExists);
}

}  // namespace
}  // namespace flexquant
