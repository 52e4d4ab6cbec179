#ifndef FLEXQUANT_COMMON_MAPPED_FILE_H_
#define FLEXQUANT_COMMON_MAPPED_FILE_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace flexquant {

// A file mapped read-only. Move-only; the mapping lives as long as the object.
class MappedFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED or INTERNAL with the path. An empty file maps to an empty span.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  absl::Span<const uint8_t> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

  // Lets go of the pages read so far: they no longer count as this process's, and are read again when they are needed.
  void ReleasePages() const;

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  std::string path_;
};

// The whole file as a string; same errors.
absl::StatusOr<std::string> ReadFile(const std::string& path);
// Writes a whole file. Errors name the path.
absl::Status WriteFile(const std::string& path, const std::string& contents);
// Replaces the file at `path` in one step: whatever happens, it has its old or its new contents. Errors name the path.
absl::Status WriteFileAtomically(const std::string& path, const std::string& contents);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_MAPPED_FILE_H_
