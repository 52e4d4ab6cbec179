#ifndef FLEXQUANT_COMMON_CALIBRATION_CALIBRATION_FILE_H_
#define FLEXQUANT_COMMON_CALIBRATION_CALIBRATION_FILE_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/calibration/calibration.h"
#include "common/calibration/calibration_progress.h"

namespace flexquant {

// Puts the calibration into flexquant.json of the package at `folder`, all other fields kept.
absl::Status SaveCalibration(const std::string& folder, const Calibration& calibration);

// The unfinished calibration of a package, kept in a file of its own in the package's folder.
std::string ProgressPath(const std::string& folder);
absl::Status SaveProgress(const std::string& folder, const CalibrationProgress& progress);
// nullopt if there is none, or one that cannot be read: it can only be measured again.
std::optional<CalibrationProgress> LoadProgress(const std::string& folder);
void RemoveProgress(const std::string& folder);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_CALIBRATION_CALIBRATION_FILE_H_
