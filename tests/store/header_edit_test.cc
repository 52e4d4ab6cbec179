// Packages whose safetensors header is well-formed and wrong: each is refused by name.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/mapped_file.h"
#include "common/store/convert.h"
#include "common/store/manifest.h"
#include "common/store/model_store.h"
#include "tests/testing/fake_model_source.h"

namespace flexquant {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

class HeaderEditTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = absl::StrCat(testing::TempDir(), "/flexquant_header_", getpid());
    FakeModelSource source(FakeModelSource::TinyConfig());
    ConvertOptions options;
    options.overwrite = true;
    const auto report = Convert(source, folder_, options);
    ASSERT_TRUE(report.ok()) << report.status();
    const std::string file = *ReadFile(WeightsPath());
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
    header_ = Json::parse(file.substr(8, header_bytes));
    data_ = file.substr(8 + header_bytes);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string WeightsPath() const { return folder_ + "/model.safetensors"; }

  // Writes header and data with a manifest that vouches for them, and opens the result.
  absl::Status Open(size_t header_alignment = 64) {
    std::string header = header_.dump();
    header.append((header_alignment - (8 + header.size()) % header_alignment) % header_alignment, ' ');
    const uint64_t header_bytes = header.size();
    std::string file(sizeof(header_bytes), '\0');
    std::memcpy(file.data(), &header_bytes, sizeof(header_bytes));
    file += header + data_;
    EXPECT_TRUE(WriteFile(WeightsPath(), file).ok());
    auto manifest = Manifest::FromJson(*ReadFile(folder_ + "/flexquant.json"), "flexquant.json");
    EXPECT_TRUE(manifest.ok()) << manifest.status();
    manifest->file_bytes = file.size();
    manifest->checksum = Checksum(file.data(), file.size());
    EXPECT_TRUE(WriteFile(folder_ + "/flexquant.json", manifest->ToJson()).ok());
    StoreOptions verify;
    verify.verify_checksum = true;
    return ModelStore::Open(folder_, verify).status();
  }

  void ExpectRefused(const std::string& words, size_t header_alignment = 64) {
    const absl::Status status = Open(header_alignment);
    ASSERT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
    EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
  }

  std::string folder_;
  Json header_;
  std::string data_;
};

TEST_F(HeaderEditTest, UnchangedOpens) { EXPECT_TRUE(Open().ok()); }

TEST_F(HeaderEditTest, MissingTensor) {
  header_["layers.0.renamed.base3"] = header_["layers.0.qkv.base3"];
  header_.erase("layers.0.qkv.base3");
  ExpectRefused("\"layers.0.qkv.base3\" is missing");
}

TEST_F(HeaderEditTest, ExtraTensor) {
  header_["extra"] = {{"dtype", "U8"}, {"shape", {64}}, {"data_offsets", {data_.size(), data_.size() + 64}}};
  data_.append(64, '\0');
  ExpectRefused("tensors, expected");
}

TEST_F(HeaderEditTest, WrongShape) {
  header_["final_norm"]["shape"] = {2, 32};
  ExpectRefused("\"final_norm\" is F32 [2, 32], expected F32 [64]");
}

TEST_F(HeaderEditTest, WrongDtype) {
  header_["embedding.scales"]["dtype"] = "BF16";
  ExpectRefused("\"embedding.scales\" is BF16");
}

TEST_F(HeaderEditTest, OverlappingTensors) {
  header_["layers.0.o.bit5"]["data_offsets"] = header_["layers.0.o.bit4"]["data_offsets"];
  ExpectRefused("layers.0.o.bit");
}

TEST_F(HeaderEditTest, OutOfRangeTensor) {
  auto& offsets = header_["final_norm"]["data_offsets"];
  offsets = {offsets[0].get<uint64_t>() + (uint64_t{1} << 40U), offsets[1].get<uint64_t>() + (uint64_t{1} << 40U)};
  ExpectRefused("final_norm");
}

TEST_F(HeaderEditTest, Misaligned) {
  std::string header = header_.dump();
  if ((8 + header.size()) % 64 == 0) {
    header_["__metadata__"]["pad"] = "x";
  }
  ExpectRefused("not a multiple of 64", /*header_alignment=*/1);
}

TEST_F(HeaderEditTest, InfiniteScale) {
  const auto begin = header_["layers.1.down.scales"]["data_offsets"][0].get<size_t>();
  const uint16_t infinity = 0x7C00;
  std::memcpy(&data_[begin + 2 * 5], &infinity, sizeof(infinity));
  ExpectRefused("\"layers.1.down.scales\" has NaN or infinity at element 5");
}

}  // namespace
}  // namespace flexquant
