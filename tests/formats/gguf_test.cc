#include "common/formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "tests/formats/test_support.h"

namespace flexquant {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Two tensors and one value of every kind.
TestGguf Sample() {
  TestGguf file;
  file.AddString("general.name", "small");
  file.AddUint32("u32", 7);
  file.AddFloat("f32", 0.5F);
  file.Add("i8", 1, "\xFE");
  file.Add("u64", 10, std::string(8, '\xFF'));
  file.Add("yes", 7, "\x01");
  std::string strings;
  AppendValue<uint32_t>(&strings, 8);
  AppendValue<uint64_t>(&strings, 2);
  for (const char* text : {"ab", "c"}) {
    AppendValue<uint64_t>(&strings, strlen(text));
    strings += text;
  }
  file.Add("strings", 9, strings);
  std::string integers;
  AppendValue<uint32_t>(&integers, 3);
  AppendValue<uint64_t>(&integers, 2);
  AppendValue<int16_t>(&integers, -3);
  AppendValue<int16_t>(&integers, 4);
  file.Add("integers", 9, integers);
  file.tensors.push_back({"matrix", {3, 2}, 0, FloatBytes({1, 2, 3, 4, 5, 6})});
  file.tensors.push_back({"blocks", {32}, 8, std::string(34, '\x01')});
  return file;
}

absl::Status ParseStatus(const std::string& bytes) { return GgufFile::Parse(AsBytes(bytes), "test.gguf").status(); }

TEST(GgufTest, ReadsMetadataAndTensors) {
  const std::string bytes = Sample().Bytes();
  const auto file = GgufFile::Parse(AsBytes(bytes), "test.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*file->GetString("general.name"), "small");
  EXPECT_EQ(*file->GetUint64("u32"), 7U);
  EXPECT_EQ(*file->GetInt64("i8"), -2);
  EXPECT_EQ(*file->GetUint64("u64"), UINT64_MAX);
  EXPECT_EQ(*file->GetDouble("f32"), 0.5);
  EXPECT_EQ(*file->GetDouble("u32"), 7.0);
  EXPECT_TRUE(*file->GetBool("yes"));
  EXPECT_THAT(*file->GetStringArray("strings"), ElementsAre("ab", "c"));
  EXPECT_THAT(*file->GetIntArray("integers"), ElementsAre(-3, 4));
  EXPECT_THAT(*file->GetFloatArray("integers"), ElementsAre(-3.0F, 4.0F));
  const GgufTensor& matrix = file->tensors().at("matrix");
  EXPECT_THAT(matrix.shape, ElementsAre(2, 3));
  EXPECT_EQ(matrix.data.size(), 24U);
  EXPECT_EQ(file->tensors().at("blocks").data.size(), 34U);
}

TEST(GgufTest, GettersRefuseWhatDoesNotFit) {
  const std::string bytes = Sample().Bytes();
  const auto file = GgufFile::Parse(AsBytes(bytes), "test.gguf");
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->GetInt64("u64").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file->GetUint64("i8").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file->GetInt64("f32").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file->GetString("u32").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file->GetBool("u32").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file->GetInt64("strings").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file->GetIntArray("strings").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file->GetFloatArray("strings").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file->GetStringArray("integers").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file->GetStringArray("u32").status().code(), absl::StatusCode::kInvalidArgument);
  const absl::Status missing = file->GetString("nothing").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("test.gguf: metadata nothing"));
}

struct BadFile {
  const char* what;
  std::function<void(TestGguf*)> change;
  absl::StatusCode code;
  const char* message;
};

TEST(GgufTest, BadFilesNameWhatIsWrong) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kLoss = absl::StatusCode::kDataLoss;
  const std::vector<BadFile> cases = {
      {"magic", [](TestGguf* f) { f->magic = "GGML"; }, kInvalid, "not a GGUF"},
      {"old version", [](TestGguf* f) { f->version = 1; }, kInvalid, "version 1"},
      {"big-endian", [](TestGguf* f) { f->version = 3U << 24; }, kInvalid, "little-endian"},
      {"huge metadata count", [](TestGguf* f) { f->metadata_count = INT64_MAX; }, kInvalid, "metadata entries"},
      {"large metadata count", [](TestGguf* f) { f->metadata_count = 60000; }, kLoss, "60000 metadata"},
      {"huge tensor count", [](TestGguf* f) { f->tensor_count = INT64_MAX; }, kInvalid, "tensors"},
      {"large tensor count", [](TestGguf* f) { f->tensor_count = 100000; }, kLoss, "100000 tensors"},
      {"value type", [](TestGguf* f) { f->Add("k", 13, "x"); }, kInvalid, "metadata k has type 13"},
      {"key twice", [](TestGguf* f) { f->AddUint32("u32", 1); }, kInvalid, "u32 twice"},
      {"empty key", [](TestGguf* f) { f->AddUint32("", 1); }, kInvalid, "key of 0 bytes"},
      {"nested array", [](TestGguf* f) { f->Add("k", 9, std::string("\x09\0\0\0\x01\0\0\0\0\0\0\0", 12)); }, kInvalid,
       "arrays of arrays"},
      {"huge array", [](TestGguf* f) { f->Add("k", 9, std::string("\x04\0\0\0", 4) + std::string(8, '\x7F')); }, kLoss,
       "metadata k, an array"},
      {"huge string array", [](TestGguf* f) { f->Add("k", 9, std::string("\x08\0\0\0", 4) + std::string(8, '\xFF')); },
       kLoss, "metadata k, an array"},
      {"huge string", [](TestGguf* f) { f->Add("k", 8, std::string(8, '\xFF')); }, kLoss, "metadata k"},
      {"alignment not a power", [](TestGguf* f) { f->AddUint32("general.alignment", 24); }, kInvalid, "is 24"},
      {"alignment zero", [](TestGguf* f) { f->AddUint32("general.alignment", 0); }, kInvalid, "is 0"},
      {"alignment huge", [](TestGguf* f) { f->AddUint32("general.alignment", 1U << 31); }, kInvalid, "alignment"},
      {"offset off the alignment", [](TestGguf* f) { f->tensors[1].offset = 33; }, kInvalid, "blocks begins at 33"},
      {"tensor twice", [](TestGguf* f) { f->tensors[1].name = "matrix"; }, kInvalid, "matrix twice"},
      {"tensor type", [](TestGguf* f) { f->tensors[0].type = 16; }, kInvalid, "ggml type 16"},
      {"no dimension", [](TestGguf* f) { f->tensors[0].dimensions = {}; }, kInvalid, "0 dimensions"},
      {"many dimensions",
       [](TestGguf* f) {
         f->tensors[0].dimensions = {1, 1, 1, 1, 6};
       },
       kInvalid, "5 dimensions"},
      {"zero dimension",
       [](TestGguf* f) {
         f->tensors[0].dimensions = {0, 2};
       },
       kInvalid, "dimension 0"},
      {"overflowing shape",
       [](TestGguf* f) {
         f->tensors[0].dimensions = {1ULL << 40, 1ULL << 40};
       },
       kInvalid, "at most"},
      {"partial block", [](TestGguf* f) { f->tensors[1].dimensions = {31}; }, kInvalid, "blocks of 32"},
      {"out of range",
       [](TestGguf* f) {
         f->tensors[0].dimensions = {3, 20000};
       },
       kLoss, "matrix needs 240000 bytes"},
      {"offset out of range", [](TestGguf* f) { f->tensors[1].offset = int64_t{1} << 62; }, kLoss, "tensor blocks"},
      {"overlap", [](TestGguf* f) { f->tensors[1].offset = 0; }, kLoss, "overlap"},
      {"unprintable name", [](TestGguf* f) { f->tensors[0].name = std::string("a\nb"); }, kInvalid, "usable name"},
  };
  for (const BadFile& bad : cases) {
    TestGguf file = Sample();
    bad.change(&file);
    const absl::Status status = ParseStatus(file.Bytes());
    EXPECT_EQ(status.code(), bad.code) << bad.what << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message)) << bad.what;
    EXPECT_THAT(std::string(status.message()), HasSubstr("test.gguf")) << bad.what;
  }
}

TEST(GgufTest, EveryTruncationIsAnError) {
  const std::string bytes = Sample().Bytes();
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(ParseStatus(bytes.substr(0, size)).ok()) << size;
  }
  EXPECT_TRUE(ParseStatus(bytes).ok());
}

TEST(GgufTest, ChangedBytesNeverReadOutside) {
  int opened = 0;
  Mutate(Sample().Bytes(), 20000, [&opened](const std::string& bytes) {
    // A copy of exactly the size, so that a sanitizer sees every byte beyond it.
    const std::vector<uint8_t> exact(bytes.begin(), bytes.end());
    const auto file = GgufFile::Parse(exact, "test.gguf");
    if (!file.ok()) {
      return;
    }
    ++opened;
    for (const auto& [key, value] : file->metadata()) {
      (void)file->GetStringArray(key);
      (void)file->GetFloatArray(key);
      (void)file->GetIntArray(key);
      (void)file->GetString(key);
      (void)file->GetInt64(key);
    }
    for (const auto& [name, tensor] : file->tensors()) {
      ASSERT_LE(tensor.data.data() + tensor.data.size(), exact.data() + exact.size());
      ASSERT_GE(tensor.data.data(), exact.data());
    }
  });
  EXPECT_GT(opened, 100);
}

TEST(GgufTest, WriterIsReadBack) {
  const std::string source_bytes = Sample().Bytes();
  const auto source = GgufFile::Parse(AsBytes(source_bytes), "test.gguf");
  ASSERT_TRUE(source.ok());
  GgufMetadataWriter writer;
  for (const auto& [key, value] : source->metadata()) {
    writer.SetRaw(key, value);
  }
  writer.SetString("text", "a");
  writer.SetString("text", "replaced");
  writer.SetBool("flag", false);
  writer.SetUint32("id", 9);
  writer.SetFloat("real", 1.5F);
  writer.SetStringArray("words", {"x", "", "yz"});
  writer.SetFloatArray("reals", {1.0F, -2.0F});
  writer.SetInt32Array("ints", {-1, 5});
  const std::string bytes = writer.Serialize();
  const auto file = GgufFile::Parse(AsBytes(bytes), "copy.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->version(), 3U);
  EXPECT_TRUE(file->tensors().empty());
  EXPECT_EQ(file->metadata().size(), source->metadata().size() + 7);
  EXPECT_THAT(*file->GetStringArray("strings"), ElementsAre("ab", "c"));
  EXPECT_EQ(*file->GetInt64("i8"), -2);
  EXPECT_EQ(*file->GetString("text"), "replaced");
  EXPECT_FALSE(*file->GetBool("flag"));
  EXPECT_EQ(*file->GetUint64("id"), 9U);
  EXPECT_EQ(*file->GetDouble("real"), 1.5);
  EXPECT_THAT(*file->GetStringArray("words"), ElementsAre("x", "", "yz"));
  EXPECT_THAT(*file->GetFloatArray("reals"), ElementsAre(1.0F, -2.0F));
  EXPECT_THAT(*file->GetIntArray("ints"), ElementsAre(-1, 5));
}

TEST(GgufTest, OpensFilesAndNamesMissingOnes) {
  const TempFolder folder;
  ASSERT_TRUE(WriteFile(folder / "a.gguf", Sample().Bytes()).ok());
  const auto file = GgufFile::Open(folder / "a.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*file->GetUint64("u32"), 7U);
  EXPECT_EQ(GgufFile::Open(folder / "b.gguf").status().code(), absl::StatusCode::kNotFound);
}

TEST(GgufTest, RealVocabulary) {
  const std::string path = SharedPath("data/tokenizers/ggml-vocab-llama-bpe.gguf");
  if (path.empty()) {
    GTEST_SKIP() << "shared data is absent";
  }
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->GetStringArray("tokenizer.ggml.tokens")->size(), 128256U);
  EXPECT_EQ(*file->GetString("tokenizer.ggml.pre"), "llama-bpe");
}

}  // namespace
}  // namespace flexquant
