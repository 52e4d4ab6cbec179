#include "common/mapped_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <utility>

namespace flexquant {
namespace {

std::string TempPath(const std::string& name) {
  return testing::TempDir() + "/flexquant_mapped_file_" + std::to_string(getpid()) + "_" + name;
}

TEST(MappedFileTest, MapsWhatWasWritten) {
  const std::string path = TempPath("data");
  const std::string contents("a\0b", 3);
  ASSERT_TRUE(WriteFile(path, contents).ok());
  auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  MappedFile moved = std::move(*file);
  ASSERT_EQ(moved.bytes().size(), 3U);
  EXPECT_EQ(moved.bytes()[2], 'b');
  moved.ReleasePages();
  EXPECT_EQ(moved.bytes()[2], 'b');
  EXPECT_EQ(*ReadFile(path), contents);
  std::filesystem::remove(path);
}

TEST(MappedFileTest, EmptyFileIsEmptySpan) {
  const std::string path = TempPath("empty");
  ASSERT_TRUE(WriteFile(path, "").ok());
  const auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->bytes().empty());
  std::filesystem::remove(path);
}

TEST(MappedFileTest, ErrorsNameThePath) {
  const auto missing = MappedFile::Open("/no/such/file");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(std::string(missing.status().message()).find("/no/such/file"), std::string::npos);
  EXPECT_EQ(MappedFile::Open(testing::TempDir()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(WriteFile("/no/such/folder/file", "x").ok());
}

}  // namespace
}  // namespace flexquant
