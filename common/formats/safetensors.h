#ifndef FLEXQUANT_COMMON_FORMATS_SAFETENSORS_H_
#define FLEXQUANT_COMMON_FORMATS_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/mapped_file.h"

namespace flexquant {

struct SafetensorInfo {
  std::string dtype;               // "F32", "F16", "BF16", "U8", ...
  std::vector<int64_t> shape;      // empty = a scalar
  absl::Span<const uint8_t> data;  // little-endian, row-major; no alignment promised
};

// One safetensors file mapped read-only, wholly bounds-checked by Open. Immutable: safe to share between threads.
// Move-only.
class SafetensorsFile {
 public:
  // Largest header read, bytes.
  static constexpr uint64_t kMaxHeaderBytes = 32 << 20;

  // NOT_FOUND or PERMISSION_DENIED (path), INVALID_ARGUMENT (header is not what the format says, unknown dtype, bytes
  // do not match shape), DATA_LOSS (truncated; overlapping or out-of-range tensors). Messages name the path
  // and the tensor.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);
  // The same of bytes that outlive the object; `path` is only named in errors.
  static absl::StatusOr<SafetensorsFile> Parse(absl::Span<const uint8_t> bytes, std::string path);

  const std::string& path() const { return path_; }
  const std::map<std::string, SafetensorInfo>& tensors() const { return tensors_; }
  // "__metadata__", strings by strings.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  MappedFile file_;
  std::string path_;
  std::map<std::string, SafetensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

// The tensors of a Hugging Face folder: model.safetensors, or the shards that model.safetensors.index.json lists. Same
// errors and thread-safety; also INVALID_ARGUMENT or DATA_LOSS for an index that disagrees with its shards, or names a
// shard outside the folder.
class SafetensorsModel {
 public:
  static absl::StatusOr<SafetensorsModel> Open(const std::string& folder);

  const std::map<std::string, SafetensorInfo>& tensors() const { return tensors_; }
  size_t num_files() const { return files_.size(); }

 private:
  std::vector<SafetensorsFile> files_;
  std::map<std::string, SafetensorInfo> tensors_;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_FORMATS_SAFETENSORS_H_
