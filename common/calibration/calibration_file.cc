#include "common/calibration/calibration_file.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"

namespace flexquant {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr char kManifestName[] = "flexquant.json";
constexpr char kProgressName[] = "flexquant.calibration.partial";

}  // namespace

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
