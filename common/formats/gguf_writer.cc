#include "absl/strings/str_cat.h"
#include "common/formats/gguf.h"

namespace flexquant {
namespace {

constexpr uint32_t kWrittenVersion = 3;

template <typename T>
void Append(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void AppendString(std::string* out, absl::string_view text) {
  Append<uint64_t>(out, text.size());
  absl::StrAppend(out, text);
}

std::string Begin(GgufType type) {
  std::string out;
  Append(&out, static_cast<uint32_t>(type));
  return out;
}

std::string BeginArray(GgufType element_type, uint64_t count) {
  std::string out = Begin(GgufType::kArray);
  Append(&out, static_cast<uint32_t>(element_type));
  Append(&out, count);
  return out;
}

template <typename T>
std::string Scalar(GgufType type, T value) {
  std::string out = Begin(type);
  Append(&out, value);
  return out;
}

template <typename T>
std::string Array(GgufType element_type, absl::Span<const T> values) {
  std::string out = BeginArray(element_type, values.size());
  out.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  return out;
}

}  // namespace

void GgufMetadataWriter::SetString(absl::string_view key, absl::string_view value) {
  std::string& entry = entries_[std::string(key)];
  entry = Begin(GgufType::kString);
  AppendString(&entry, value);
}

void GgufMetadataWriter::SetBool(absl::string_view key, bool value) {
  entries_[std::string(key)] = Scalar<uint8_t>(GgufType::kBool, value ? 1 : 0);
}

void GgufMetadataWriter::SetUint32(absl::string_view key, uint32_t value) {
  entries_[std::string(key)] = Scalar(GgufType::kUint32, value);
}

void GgufMetadataWriter::SetFloat(absl::string_view key, float value) {
  entries_[std::string(key)] = Scalar(GgufType::kFloat32, value);
}

void GgufMetadataWriter::SetStringArray(absl::string_view key, absl::Span<const std::string> values) {
  std::string& entry = entries_[std::string(key)];
  entry = BeginArray(GgufType::kString, values.size());
  for (const std::string& value : values) {
    AppendString(&entry, value);
  }
}

void GgufMetadataWriter::SetFloatArray(absl::string_view key, absl::Span<const float> values) {
  entries_[std::string(key)] = Array(GgufType::kFloat32, values);
}

void GgufMetadataWriter::SetInt32Array(absl::string_view key, absl::Span<const int32_t> values) {
  entries_[std::string(key)] = Array(GgufType::kInt32, values);
}

void GgufMetadataWriter::SetRaw(absl::string_view key, const GgufValue& value) {
  std::string& entry = entries_[std::string(key)];
  entry = Begin(value.type);
  entry.append(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size());
}

std::string GgufMetadataWriter::Serialize() const {
  std::string out = "GGUF";
  Append(&out, kWrittenVersion);
  Append<uint64_t>(&out, 0);
  Append<uint64_t>(&out, entries_.size());
  for (const auto& [key, value] : entries_) {
    AppendString(&out, key);
    out += value;
  }
  return out;
}

}  // namespace flexquant
