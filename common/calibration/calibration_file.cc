#include "common/calibration/calibration_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr char kManifestName[] = "flexquant.json";
constexpr char kProgressName[] = "flexquant.calibration.partial";

absl::Status WriteError(int error, const std::string& path) {
  return absl::ErrnoToStatus(
      error, absl::StrCat("cannot write ", path, "; its folder must be writable and the disk have room"));
}

absl::Status WriteAll(int fd, absl::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written <= 0) {
      return WriteError(written < 0 ? errno : ENOSPC, path);
    }
    text.remove_prefix(static_cast<size_t>(written));
  }
  return fsync(fd) == 0 ? absl::OkStatus() : WriteError(errno, path);
}

}  // namespace

absl::Status WriteFileAtomically(const std::string& path, const std::string& text) {
  const std::string temporary = absl::StrCat(path, ".", getpid());
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) {
    return WriteError(errno, path);
  }
  absl::Status status = WriteAll(fd, text, path);
  if (close(fd) != 0 && status.ok()) {
    status = WriteError(errno, path);
  }
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0) {
    status = WriteError(errno, path);
  }
  if (!status.ok()) {
    unlink(temporary.c_str());
  }
  return status;
}

absl::Status SaveCalibration(const std::string& folder, const Calibration& calibration) {
  const std::string path = (fs::path(folder) / kManifestName).string();
  FQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  Json manifest = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!manifest.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a JSON object; convert the model again"));
  }
  manifest["calibration"] = Json::parse(calibration.ToJson());
  return WriteFileAtomically(path, manifest.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

std::string ProgressPath(const std::string& folder) { return (fs::path(folder) / kProgressName).string(); }

absl::Status SaveProgress(const std::string& folder, const CalibrationProgress& progress) {
  return WriteFileAtomically(ProgressPath(folder), progress.ToJson());
}

std::optional<CalibrationProgress> LoadProgress(const std::string& folder) {
  const auto text = ReadFile(ProgressPath(folder));
  if (!text.ok()) {
    return std::nullopt;
  }
  auto progress = CalibrationProgress::FromJson(*text, ProgressPath(folder));
  return progress.ok() ? std::optional(*std::move(progress)) : std::nullopt;
}

void RemoveProgress(const std::string& folder) {
  std::error_code ignored;
  fs::remove(ProgressPath(folder), ignored);
}

}  // namespace flexquant
