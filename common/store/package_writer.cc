#include "common/store/package_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"

namespace flexquant {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kAlignment = 64;

// A file or folder.
absl::Status Sync(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fsync(fd) != 0) {
    const int error = errno;
    if (fd >= 0) {
      close(fd);
    }
    return absl::ErrnoToStatus(error, absl::StrCat("cannot sync ", path));
  }
  close(fd);
  return absl::OkStatus();
}

std::string Header(const std::vector<PackageTensor>& tensors) {
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "flexquant"}};
  for (const PackageTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {tensor.offset, tensor.offset + tensor.bytes}}};
  }
  std::string text = header.dump();
  const uint64_t unpadded = sizeof(uint64_t) + text.size();
  text.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  return text;
}

}  // namespace

StagingFolder::StagingFolder(std::string path, std::string destination)
    : path_(std::move(path)), destination_(std::move(destination)) {}

StagingFolder::StagingFolder(StagingFolder&& other) noexcept
    : path_(std::exchange(other.path_, "")), destination_(std::move(other.destination_)) {}

StagingFolder::~StagingFolder() {
  if (!path_.empty()) {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
}

absl::StatusOr<StagingFolder> StagingFolder::Create(const std::string& destination, bool overwrite) {
  std::error_code error;
  // "DEST/" names the same folder as "DEST", and has no base name to put a suffix on.
  const std::string clean = fs::path(destination + "/").parent_path().string();
  if (clean.empty()) {
    return absl::InvalidArgumentError("the destination is empty; give the folder to write");
  }
  if (fs::exists(clean, error)) {
    const bool package = fs::exists(fs::path(clean) / kManifestFile, error);
    if (!overwrite) {
      return absl::AlreadyExistsError(
          absl::StrCat(clean, " exists; choose another destination or replace it with --force"));
    }
    if (!package && !(fs::is_directory(clean, error) && fs::is_empty(clean, error))) {
      return absl::AlreadyExistsError(
          absl::StrCat(clean, " exists and is not a FlexQuant model package; it is not replaced"));
    }
  }
  const std::string staging = absl::StrCat(clean, ".partial-", getpid());
  fs::remove_all(staging, error);
  if (!fs::create_directories(staging, error)) {
    // No error code: the folder of a dead process with this id, which could not be removed.
    return absl::ErrnoToStatus(error ? error.value() : EEXIST,
                               absl::StrCat("cannot create ", staging, "; choose a destination that you may write"));
  }
  return StagingFolder(staging, clean);
}

absl::Status StagingFolder::Commit() {
  std::error_code error;
  // Before the rename: after a crash the destination must not be there with empty files in it.
  for (fs::directory_iterator entry(path_, error), end; !error && entry != end; entry.increment(error)) {
    FQ_RETURN_IF_ERROR(Sync(entry->path().string()));
  }
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot list ", path_));
  }
  FQ_RETURN_IF_ERROR(Sync(path_));
  // rename(2) replaces only an empty folder: the old package steps aside first, so that one of the two is always whole.
  const std::string old = absl::StrCat(destination_, ".old-", getpid());
  const bool replaces = fs::exists(destination_, error);
  if (replaces) {
    fs::rename(destination_, old, error);
    if (error) {
      return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot move ", destination_, " aside"));
    }
  }
  fs::rename(path_, destination_, error);
  if (error) {
    const int code = error.value();
    if (replaces) {
      fs::rename(old, destination_, error);
    }
    return absl::ErrnoToStatus(code, absl::StrCat("cannot rename ", path_, " to ", destination_));
  }
  path_.clear();
  if (replaces) {
    fs::remove_all(old, error);
  }
  const std::string parent = fs::path(destination_).parent_path().string();
  return Sync(parent.empty() ? "." : parent);
}

absl::StatusOr<WeightsFileWriter> WeightsFileWriter::Create(const std::string& path,
                                                            std::vector<PackageTensor> tensors) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot create ", path));
  }
  WeightsFileWriter writer(fd, path);
  const std::string header = Header(tensors);
  writer.data_begin_ = sizeof(uint64_t) + header.size();
  writer.file_bytes_ = writer.data_begin_ + (tensors.empty() ? 0 : tensors.back().offset + tensors.back().bytes);
  std::error_code error;
  const fs::space_info space = fs::space(fs::path(path).parent_path(), error);
  if (!error && space.available < writer.file_bytes_) {
    return absl::ResourceExhaustedError(absl::StrCat(path, " needs ", writer.file_bytes_ >> 20U, " MiB, the disk has ",
                                                     space.available >> 20U, " MiB free; free ",
                                                     ((writer.file_bytes_ - space.available) >> 20U) + 1, " MiB"));
  }
  const uint64_t header_bytes = header.size();
  FQ_RETURN_IF_ERROR(writer.WriteAt(&header_bytes, sizeof(header_bytes), 0));
  FQ_RETURN_IF_ERROR(writer.WriteAt(header.data(), header.size(), sizeof(header_bytes)));
  for (PackageTensor& tensor : tensors) {
    std::string name = tensor.name;
    writer.tensors_.emplace(std::move(name), std::move(tensor));
  }
  return writer;
}

WeightsFileWriter::WeightsFileWriter(WeightsFileWriter&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      data_begin_(other.data_begin_),
      file_bytes_(other.file_bytes_),
      tensors_(std::move(other.tensors_)) {}

WeightsFileWriter::~WeightsFileWriter() {
  if (fd_ >= 0) {
    close(fd_);
  }
}

absl::Status WeightsFileWriter::WriteAt(const void* data, uint64_t bytes, uint64_t offset) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = pwrite(fd_, next, bytes, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written <= 0) {
      return absl::ErrnoToStatus(written < 0 ? errno : ENOSPC, absl::StrCat("cannot write ", path_));
    }
    next += written;
    offset += static_cast<uint64_t>(written);
    bytes -= static_cast<uint64_t>(written);
  }
  return absl::OkStatus();
}

absl::Status WeightsFileWriter::Write(const std::string& tensor, const void* data, uint64_t bytes) {
  const auto it = tensors_.find(tensor);
  FQ_CHECK(it != tensors_.end() && it->second.bytes == bytes);
  return WriteAt(data, bytes, data_begin_ + it->second.offset);
}

absl::Status WeightsFileWriter::Finish() {
  const int fd = std::exchange(fd_, -1);
  const bool synced = fsync(fd) == 0;
  const int sync_error = errno;
  if (close(fd) != 0 || !synced) {
    return absl::ErrnoToStatus(synced ? errno : sync_error, absl::StrCat("cannot write ", path_));
  }
  return absl::OkStatus();
}

}  // namespace flexquant
