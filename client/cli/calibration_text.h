#ifndef FLEXQUANT_CLIENT_CLI_CALIBRATION_TEXT_H_
#define FLEXQUANT_CLIENT_CLI_CALIBRATION_TEXT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "common/store/model_store.h"
#include "executor/calibrate.h"

namespace flexquant::cli {

// How much of a text a calibration reads; token counts are rounded up to whole windows.
struct TextShare {
  int64_t tokens = 2048;   // for sensitivities
  int64_t holdout = 4096;  // for rungs and the precision requirement model
  int64_t window = 256;
};

struct CalibrationText {
  std::string checksum;  // hex XXH3-128 of the file
  executor::CalibrationWindows windows;
};

// Windows of the file at `path`, spread evenly over it, those for rungs in between the others; each begins with BOS
// where the model's texts do. INVALID_ARGUMENT if the text is too short or not UTF-8, or a window exceeds the model's
// context; NOT_FOUND.
absl::StatusOr<CalibrationText> ReadCalibrationText(const std::string& path, const ModelStore& store,
                                                    const TextShare& share);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_CALIBRATION_TEXT_H_
