#ifndef FLEXQUANT_TESTS_CONTROLLER_PACKAGE_FOLDER_H_
#define FLEXQUANT_TESTS_CONTROLLER_PACKAGE_FOLDER_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "common/mapped_file.h"
#include "common/store/manifest.h"
#include "nlohmann/json.hpp"
#include "tests/controller/test_model.h"

namespace flexquant::controller {

inline constexpr char kPackageChecksum[] = "00112233445566778899aabbccddeeff";

// A byte-level tokenizer.json: one token a byte, then begin and end of sequence.
inline std::string ByteLevelTokenizerJson() {
  nlohmann::json vocab;
  uint32_t shifted = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    // Byte-level BPE writes printable bytes as themselves and moves the others behind U+0100.
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const uint32_t code_point = printable ? byte : shifted++;
    std::string text;
    if (code_point < 0x80) {
      text.push_back(static_cast<char>(code_point));
    } else {
      text.push_back(static_cast<char>(0xC0U | (code_point >> 6U)));
      text.push_back(static_cast<char>(0x80U | (code_point & 0x3FU)));
    }
    vocab[text] = byte;
  }
  const auto special = [](uint32_t id, const std::string& content) {
    return nlohmann::json{{"id", id}, {"content", content}, {"special", true}};
  };
  nlohmann::json tokenizer;
  tokenizer["added_tokens"] = {special(kBos, "<bos>"), special(kEos, "<eos>")};
  tokenizer["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  tokenizer["decoder"] = {{"type", "ByteLevel"}};
  tokenizer["model"] = {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}};
  return tokenizer.dump();
}

// A model package without weights in a folder of its own, removed at the end.
class PackageFolder {
 public:
  PackageFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "flexquant-controller-XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
    Manifest manifest;
    manifest.format_version = 1;
    manifest.flexquant_version = "0";
    manifest.model_name = "tiny";
    manifest.group_size = 32;
    manifest.checksum = kPackageChecksum;
    manifest.relative_error = std::vector<double>(5, 0.1);
    Write("flexquant.json", manifest.ToJson());
    Write("config.json", TestConfig().ToJson());
    Write("tokenizer.json", ByteLevelTokenizerJson());
    Write("tokenizer_config.json", R"({"bos_token": "<bos>", "eos_token": "<eos>", "add_bos_token": true})");
  }
  ~PackageFolder() { std::filesystem::remove_all(path_); }
  PackageFolder(const PackageFolder&) = delete;
  PackageFolder& operator=(const PackageFolder&) = delete;

  void Write(const std::string& name, const std::string& text) const {
    EXPECT_TRUE(WriteFile((std::filesystem::path(path_) / name).string(), text).ok());
  }
  void Remove(const std::string& name) const { std::filesystem::remove(std::filesystem::path(path_) / name); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace flexquant::controller

#endif  // FLEXQUANT_TESTS_CONTROLLER_PACKAGE_FOLDER_H_
