#include "transport/reloaded_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "spdlog/spdlog.h"

namespace flexquant::transport {
namespace {

constexpr size_t kMaxFileBytes = 16U << 20U;

// Read rather than mapped: a file that is being replaced may shrink under a mapping. Never waits, as for a pipe.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  }
  const auto close_file = absl::MakeCleanup([file] { close(file); });
  struct stat info = {};
  if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  std::string contents;
  char buffer[16384];
  while (true) {
    const ssize_t count = read(file, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
    }
    if (count == 0) {
      return contents;
    }
    contents.append(buffer, static_cast<size_t>(count));
    if (contents.size() > kMaxFileBytes) {
      return absl::InvalidArgumentError(absl::StrCat(path, " has more than ", kMaxFileBytes, " bytes"));
    }
  }
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ReloadedFiles::ReadAll() const {
  std::vector<std::string> contents;
  for (const std::string& path : paths_) {
    FQ_ASSIGN_OR_RETURN(std::string text, ReadSmallFile(path));
    contents.push_back(std::move(text));
  }
  return contents;
}

absl::Status ReloadedFiles::Load() {
  const std::lock_guard lock(mutex_);
  FQ_ASSIGN_OR_RETURN(contents_, ReadAll());
  FQ_ASSIGN_OR_RETURN(value_, parse_(contents_));
  looked_ = absl::Now();
  return absl::OkStatus();
}

std::shared_ptr<const void> ReloadedFiles::Current() {
  const std::lock_guard lock(mutex_);
  if (absl::Now() - looked_ >= interval_) {
    Look();
    looked_ = absl::Now();
  }
  return value_;
}

void ReloadedFiles::Look() {
  absl::StatusOr<std::vector<std::string>> contents = ReadAll();
  if (contents.ok() && *contents == contents_) {
    complaint_.clear();
    return;
  }
  absl::StatusOr<std::shared_ptr<const void>> value = contents.ok() ? parse_(*contents) : contents.status();
  if (value.ok()) {
    contents_ = *std::move(contents);
    value_ = *std::move(value);
    complaint_.clear();
    spdlog::info("read {} again: changed, and in use from now on", absl::StrJoin(paths_, ", "));
    return;
  }
  // Tried again at every look, because a certificate may become valid and files may be halfway through a change.
  std::string complaint(value.status().message());
  if (complaint != complaint_) {
    spdlog::error("{}; what was read before stays in use", complaint);
    complaint_ = std::move(complaint);
  }
}

}  // namespace flexquant::transport
