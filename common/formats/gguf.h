#ifndef FLEXQUANT_COMMON_FORMATS_GGUF_H_
#define FLEXQUANT_COMMON_FORMATS_GGUF_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/formats/ggml_type.h"
#include "common/mapped_file.h"

namespace flexquant {

// Type of a metadata value; the numbers are the file's.
enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// Bytes of one value of a type; 0 for strings and arrays, whose size varies.
uint64_t GgufValueSize(GgufType type);

// A metadata value as it lies in the file (little-endian); `bytes` was bounds-checked when the file was opened.
struct GgufValue {
  GgufType type = GgufType::kUint8;
  GgufType element_type = GgufType::kUint8;  // of an array
  uint64_t count = 1;                        // elements of an array
  absl::Span<const uint8_t> bytes;           // all after the type word; of an array also its element type and count
};

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<int64_t> shape;      // outermost first, as in row-major: a matrix is [rows, cols]
  absl::Span<const uint8_t> data;  // exactly the tensor's bytes
  int64_t num_elements() const;
};

// A GGUF file (version 2 or 3, little-endian) mapped read-only. Everything is bounds-checked by Open, so no getter
// reads outside the file whatever it holds. Immutable after Open: safe to share between threads. Move-only.
class GgufFile {
 public:
  // NOT_FOUND or PERMISSION_DENIED (path), INVALID_ARGUMENT (magic, version, unknown types, bad alignment, names
  // twice), DATA_LOSS (truncated; overlapping or out-of-range tensors). Messages name the path, and the key or tensor.
  static absl::StatusOr<GgufFile> Open(const std::string& path);
  // The same of bytes that outlive the object; `path` is only named in errors.
  static absl::StatusOr<GgufFile> Parse(absl::Span<const uint8_t> bytes, const std::string& path);

  const std::string& path() const { return path_; }
  uint32_t version() const { return version_; }

  bool Has(absl::string_view key) const;
  // NOT_FOUND when the key is absent; INVALID_ARGUMENT when its type or value does not fit. Numbers of any integer
  // width (and floats for GetDouble) are taken; GetBool takes only bool.
  absl::StatusOr<std::string> GetString(absl::string_view key) const;
  absl::StatusOr<uint64_t> GetUint64(absl::string_view key) const;
  absl::StatusOr<int64_t> GetInt64(absl::string_view key) const;
  absl::StatusOr<double> GetDouble(absl::string_view key) const;
  absl::StatusOr<bool> GetBool(absl::string_view key) const;
  absl::StatusOr<std::vector<std::string>> GetStringArray(absl::string_view key) const;
  absl::StatusOr<std::vector<float>> GetFloatArray(absl::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> GetIntArray(absl::string_view key) const;

  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
  const std::map<std::string, GgufTensor>& tensors() const { return tensors_; }

 private:
  absl::StatusOr<const GgufValue*> Find(absl::string_view key) const;
  absl::Status Unfit(absl::string_view key, absl::string_view wanted) const;

  MappedFile file_;
  std::string path_;
  uint32_t version_ = 0;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::map<std::string, GgufTensor> tensors_;
};

// Makes a GGUF of metadata only (version 3, no tensors), for vocabularies. A key added again replaces the first.
class GgufMetadataWriter {
 public:
  void SetString(absl::string_view key, absl::string_view value);
  void SetBool(absl::string_view key, bool value);
  void SetUint32(absl::string_view key, uint32_t value);
  void SetFloat(absl::string_view key, float value);
  void SetStringArray(absl::string_view key, absl::Span<const std::string> values);
  void SetFloatArray(absl::string_view key, absl::Span<const float> values);
  void SetInt32Array(absl::string_view key, absl::Span<const int32_t> values);
  // A value as it lies in another file.
  void SetRaw(absl::string_view key, const GgufValue& value);

  // The file's bytes.
  std::string Serialize() const;

 private:
  std::map<std::string, std::string> entries_;  // key -> type word and value, encoded
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_FORMATS_GGUF_H_
