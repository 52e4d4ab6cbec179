#ifndef FLEXQUANT_COMMON_STORE_PACKAGE_WRITER_H_
#define FLEXQUANT_COMMON_STORE_PACKAGE_WRITER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/store/package_layout.h"

namespace flexquant {

// A folder that is written beside `destination` and takes its place at the end; removed if that does not happen.
// Not thread-safe.
class StagingFolder {
 public:
  // ALREADY_EXISTS if `destination` exists and !overwrite, or exists and is neither empty nor a model package.
  static absl::StatusOr<StagingFolder> Create(const std::string& destination, bool overwrite);
  StagingFolder(StagingFolder&& other) noexcept;
  StagingFolder(const StagingFolder&) = delete;
  StagingFolder& operator=(const StagingFolder&) = delete;
  ~StagingFolder();

  const std::string& path() const { return path_; }
  // Syncs the folder and renames it to `destination`.
  absl::Status Commit();

 private:
  StagingFolder(std::string path, std::string destination);
  std::string path_;
  std::string destination_;
};

// Writes model.safetensors whose tensors are known beforehand, each anywhere in time. Not thread-safe.
class WeightsFileWriter {
 public:
  // RESOURCE_EXHAUSTED if the disk has no room for the whole file (says how much is missing).
  static absl::StatusOr<WeightsFileWriter> Create(const std::string& path, std::vector<PackageTensor> tensors);
  WeightsFileWriter(WeightsFileWriter&& other) noexcept;
  WeightsFileWriter(const WeightsFileWriter&) = delete;
  WeightsFileWriter& operator=(const WeightsFileWriter&) = delete;
  ~WeightsFileWriter();

  // `bytes` is the tensor's size.
  absl::Status Write(const std::string& tensor, const void* data, uint64_t bytes);
  // Syncs and closes.
  absl::Status Finish();

  uint64_t file_bytes() const { return file_bytes_; }

 private:
  WeightsFileWriter(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  absl::Status WriteAt(const void* data, uint64_t bytes, uint64_t offset);

  int fd_;
  std::string path_;
  uint64_t data_begin_ = 0;
  uint64_t file_bytes_ = 0;
  std::map<std::string, PackageTensor> tensors_;
};

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_STORE_PACKAGE_WRITER_H_
