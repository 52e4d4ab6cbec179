#ifndef FLEXQUANT_TESTS_TOKENIZER_TEST_DATA_H_
#define FLEXQUANT_TESTS_TOKENIZER_TEST_DATA_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "common/mapped_file.h"

namespace flexquant::test {

inline std::filesystem::path SourceDir() {
  const char* source = std::getenv("FLEXQUANT_SOURCE");
  return source != nullptr ? source : ".";
}

inline std::filesystem::path DataDir() {
  const char* data = std::getenv("FLEXQUANT_TEST_DATA");
  return data != nullptr ? std::filesystem::path(data) : SourceDir() / ".." / "shared" / "data";
}

// Empty if the model is not on this machine.
inline std::filesystem::path SmolLm2Gguf() {
  if (const char* path = std::getenv("FLEXQUANT_SMOLLM2_GGUF"); path != nullptr) return path;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(SourceDir() / ".cache" / "smollm2", error)) {
    if (entry.path().extension() == ".gguf") return entry.path();
  }
  return {};
}

// A file of this folder; an absent one is a failure of the checkout.
inline std::string Golden(const std::string& name) {
  const auto contents = ReadFile((SourceDir() / "tests" / "tokenizer" / name).string());
  EXPECT_TRUE(contents.ok()) << contents.status();
  return contents.ok() ? *contents : "";
}

// A folder that goes when the object does.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "flexquant-tokenizer-XXXXXX").string();
    if (mkdtemp(name.data()) != nullptr) path_ = name;
    EXPECT_FALSE(path_.empty());
  }
  ~TemporaryFolder() {
    std::error_code error;
    if (!path_.empty()) std::filesystem::remove_all(path_, error);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  // Writes a file and returns its path.
  std::string Add(const std::string& name, const std::string& contents) const {
    const std::string file = (path_ / name).string();
    EXPECT_TRUE(WriteFile(file, contents).ok());
    return file;
  }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace flexquant::test

#define FQ_SKIP_WITHOUT(path)                                                                                   \
  if (!std::filesystem::exists(path)) {                                                                         \
    GTEST_SKIP() << "'" << (path).string() << "' is absent: set FLEXQUANT_TEST_DATA or FLEXQUANT_SMOLLM2_GGUF"; \
  }                                                                                                             \
  static_assert(true)

#endif  // FLEXQUANT_TESTS_TOKENIZER_TEST_DATA_H_
