#include "common/formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/formats/test_support.h"

namespace flexquant {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kHeader[] =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[24,28]},"c":{"dtype":"U8","shape":[],"data_offsets":[28,29]}})";

absl::Status ParseStatus(const std::string& header, size_t data_size) {
  const std::string bytes = SafetensorsBytes(header, std::string(data_size, 'x'));
  return SafetensorsFile::Parse(AsBytes(bytes), "t.safetensors").status();
}

TEST(SafetensorsTest, ReadsTensors) {
  const std::string bytes = SafetensorsBytes(kHeader, FloatBytes({1, 2, 3, 4, 5, 6}) + "\x80\x3F\x80\x3F\x07");
  const auto file = SafetensorsFile::Parse(AsBytes(bytes), "t.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->metadata().at("format"), "pt");
  ASSERT_EQ(file->tensors().size(), 3U);
  EXPECT_EQ(file->tensors().at("a").dtype, "F32");
  EXPECT_THAT(file->tensors().at("a").shape, ElementsAre(2, 3));
  EXPECT_EQ(file->tensors().at("a").data.size(), 24U);
  EXPECT_EQ(file->tensors().at("c").data[0], 7);
}

TEST(SafetensorsTest, BadHeadersNameTheTensor) {
  struct Case {
    std::string entry;
    absl::StatusCode code;
    const char* message;
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kLoss = absl::StatusCode::kDataLoss;
  const std::vector<Case> cases = {
      {R"({"dtype":"F33","shape":[2],"data_offsets":[0,8]})", kInvalid, "unknown dtype \"F33\""},
      {R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})", kInvalid, "has 8 bytes; its shape and dtype need 12"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", kInvalid, "data_offsets"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,9]})", kInvalid, "data_offsets"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})", kInvalid, "data_offsets"},
      {R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})", kInvalid, "dimension -2"},
      {R"({"dtype":"F32","shape":[2.5],"data_offsets":[0,8]})", kInvalid, "dimension 2.5"},
      {R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", kInvalid, "at most"},
      {R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]})", kInvalid, "dimension"},
      {R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]})", kInvalid, "9 dimensions"},
      {R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})", kInvalid, "must be an object"},
      {R"({"dtype":7,"shape":[2],"data_offsets":[0,8]})", kInvalid, "must be an object"},
      {"3", kInvalid, "must be an object"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[12,20]})", kLoss, "ends at 20 of 16 bytes"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[4,12]})", kLoss, "overlap"},
  };
  for (const Case& bad : cases) {
    const std::string header =
        absl::StrCat(R"({"other":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"x":)", bad.entry, "}");
    const absl::Status status = ParseStatus(header, 16);
    EXPECT_EQ(status.code(), bad.code) << bad.entry << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message)) << bad.entry;
    EXPECT_THAT(std::string(status.message()), HasSubstr("t.safetensors: tensor")) << bad.entry;
  }
  EXPECT_FALSE(ParseStatus("[]", 0).ok());
  EXPECT_FALSE(ParseStatus("{", 0).ok());
  EXPECT_FALSE(ParseStatus(std::string(100000, '['), 0).ok());
  EXPECT_FALSE(ParseStatus(R"({"x":{"dtype":"U8","shape":[[[[[1]]]]],"data_offsets":[0,1]}})", 1).ok());
  EXPECT_FALSE(ParseStatus(R"({"__metadata__":{"a":1}})", 0).ok());
  const absl::Status twice = ParseStatus(R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":3})", 1);
  EXPECT_THAT(std::string(twice.message()), HasSubstr("the name x twice"));
}

TEST(SafetensorsTest, HeaderSizeIsLimited) {
  std::string huge(8, '\x7F');
  const absl::Status status = SafetensorsFile::Parse(AsBytes(huge), "t").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("claims a header"));
}

TEST(SafetensorsTest, TruncationsAreErrorsAndChangedBytesNeverReadOutside) {
  const std::string good = SafetensorsBytes(kHeader, std::string(29, '\x01'));
  for (size_t size = 0; size < good.size(); ++size) {
    const std::string bytes = good.substr(0, size);
    EXPECT_FALSE(SafetensorsFile::Parse(AsBytes(bytes), "t").ok()) << size;
  }
  int opened = 0;
  Mutate(good, 20000, [&opened](const std::string& bytes) {
    const std::vector<uint8_t> exact(bytes.begin(), bytes.end());
    const auto file = SafetensorsFile::Parse(exact, "t");
    if (!file.ok()) {
      return;
    }
    ++opened;
    for (const auto& [name, info] : file->tensors()) {
      ASSERT_LE(info.data.data() + info.data.size(), exact.data() + exact.size());
    }
  });
  EXPECT_GT(opened, 100);
}

TEST(SafetensorsModelTest, ShardsAreOneModel) {
  const TempFolder folder;
  const auto shard = [](const std::string& name) {
    return SafetensorsBytes(absl::StrCat("{\"", name, R"(":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})"), "z");
  };
  const std::string index = folder / "model.safetensors.index.json";
  ASSERT_TRUE(WriteFile(folder / "model-00001-of-00002.safetensors", shard("a")).ok());
  ASSERT_TRUE(WriteFile(folder / "model-00002-of-00002.safetensors", shard("b")).ok());
  ASSERT_TRUE(WriteFile(index, R"({"weight_map":{"a":"model-00001-of-00002.safetensors",
                                                 "b":"model-00002-of-00002.safetensors"}})")
                  .ok());
  const auto model = SafetensorsModel::Open(folder.path());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->num_files(), 2U);
  EXPECT_EQ(model->tensors().at("b").data[0], 'z');

  struct Case {
    const char* index;
    absl::StatusCode code;
    const char* message;
  };
  const std::vector<Case> cases = {
      {R"({"weight_map":{"a":"../model.safetensors"}})", absl::StatusCode::kInvalidArgument, "same folder"},
      {R"({"weight_map":{"a":3}})", absl::StatusCode::kInvalidArgument, "same folder"},
      {R"({"weight_map":{"a":".."}})", absl::StatusCode::kInvalidArgument, "same folder"},
      {R"({"weight_map":[]})", absl::StatusCode::kInvalidArgument, "weight_map"},
      {"nonsense", absl::StatusCode::kInvalidArgument, "weight_map"},
      {R"({"weight_map":{"a":"model-00009.safetensors"}})", absl::StatusCode::kNotFound, "model-00009"},
      {R"({"weight_map":{"q":"model-00001-of-00002.safetensors"}})", absl::StatusCode::kDataLoss, "tensor q is not in"},
  };
  for (const Case& bad : cases) {
    ASSERT_TRUE(WriteFile(index, bad.index).ok());
    const absl::Status status = SafetensorsModel::Open(folder.path()).status();
    EXPECT_EQ(status.code(), bad.code) << bad.index << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message)) << bad.index;
  }
  ASSERT_TRUE(WriteFile(folder / "model-00002-of-00002.safetensors", shard("a")).ok());
  ASSERT_TRUE(WriteFile(index, R"({"weight_map":{"a":"model-00001-of-00002.safetensors",
                                                 "b":"model-00002-of-00002.safetensors"}})")
                  .ok());
  EXPECT_THAT(std::string(SafetensorsModel::Open(folder.path()).status().message()), HasSubstr("in two shards"));
}

}  // namespace
}  // namespace flexquant
