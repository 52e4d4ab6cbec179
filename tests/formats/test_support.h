#ifndef FLEXQUANT_TESTS_FORMATS_TEST_SUPPORT_H_
#define FLEXQUANT_TESTS_FORMATS_TEST_SUPPORT_H_

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/model_config.h"

namespace flexquant {

// A folder of its own for one test, removed at the end.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = testing::TempDir() + "/flexquant_formats_XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(absl::string_view name) const { return absl::StrCat(path_, "/", name); }

 private:
  std::string path_;
};

inline std::string SourceFolder() {
  const char* source = getenv("FLEXQUANT_SOURCE");
  return source != nullptr ? source : ".";
}

// Path under the shared data, e.g. "models/stories260K"; "" if it is absent.
inline std::string SharedPath(const std::string& name) {
  const char* data = getenv("FLEXQUANT_TEST_DATA");
  const std::string path =
      data != nullptr ? absl::StrCat(data, "/../", name) : absl::StrCat(SourceFolder(), "/../shared/", name);
  return std::filesystem::exists(path) ? path : "";
}

inline absl::Span<const uint8_t> AsBytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

template <typename T>
void AppendValue(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

inline std::string FloatBytes(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

// Calls `parse` with every prefix of `good`, and with `rounds` copies in which a few bytes were changed at random
// (seeded). `parse` must return; what it returns is its own affair.
void Mutate(const std::string& good, int rounds, const std::function<void(const std::string&)>& parse);

// Writes GGUF files, good and bad ones.
struct TestTensor {
  std::string name;
  std::vector<uint64_t> dimensions;  // innermost first, as in the file
  uint32_t type = 0;
  std::string data;
  int64_t offset = -1;  // -1 = after the tensor before
};
struct TestGguf {
  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t alignment = 32;  // of the layout; general.alignment is the metadata's
  int64_t tensor_count = -1;
  int64_t metadata_count = -1;
  std::vector<std::pair<std::string, std::string>> metadata;  // key, type word and value
  std::vector<TestTensor> tensors;

  void Add(const std::string& key, uint32_t type, const std::string& value);
  void AddUint32(const std::string& key, uint32_t value);
  void AddFloat(const std::string& key, float value);
  void AddString(const std::string& key, const std::string& value);
  std::string Bytes() const;
};

// Safetensors bytes of a JSON header and data.
std::string SafetensorsBytes(const std::string& header, const std::string& data);

// A small model's tensors by Hugging Face's names, fp32, values all different (integers over 256, exact in bf16 up to a
// point), and its config.
ModelConfig SmallConfig(const std::string& family);
struct NamedTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};
std::map<std::string, NamedTensor> SmallTensors(const ModelConfig& config);
// What a GGUF file calls the tensor with this name.
std::string GgufName(const std::string& name);

}  // namespace flexquant

#endif  // FLEXQUANT_TESTS_FORMATS_TEST_SUPPORT_H_
