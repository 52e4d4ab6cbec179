#include "client/cli/calibration_text.h"

#include <cstddef>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/text_windows.h"
#include "common/status_macros.h"
#include "common/store/manifest.h"

namespace flexquant::cli {
namespace {

size_t NumWindows(int64_t tokens, int64_t window) { return static_cast<size_t>((tokens + window - 1) / window); }

absl::Status CheckLength(const std::string& path, size_t num_tokens, const TextShare& share, size_t needed) {
  if (num_tokens < needed * static_cast<size_t>(share.window)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", num_tokens, " tokens; --tokens ", share.tokens, " and --holdout ", share.holdout,
                     " need ", needed, " windows of ", share.window, ", ", needed * static_cast<size_t>(share.window),
                     " tokens; give a longer text, or lower --tokens, --holdout or --window"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CalibrationText> ReadCalibrationText(const std::string& path, const ModelStore& store,
                                                    const TextShare& share) {
  FQ_ASSIGN_OR_RETURN(const TokenizedText text, TokenizedText::Read(path, store));
  const auto length = static_cast<size_t>(share.window);
  FQ_RETURN_IF_ERROR(text.CheckWindow(length));
  const size_t num_holdout = NumWindows(share.holdout, share.window);
  const size_t needed = NumWindows(share.tokens, share.window) + num_holdout;
  FQ_RETURN_IF_ERROR(CheckLength(path, text.ids().size(), share, needed));

  CalibrationText result;
  result.checksum = Checksum(text.text().data(), text.text().size());
  std::vector<std::vector<uint32_t>> windows = text.SpreadWindows(needed, length);
  for (size_t i = 0; i < needed; ++i) {
    const bool holdout = (i + 1) * num_holdout / needed > i * num_holdout / needed;
    (holdout ? result.windows.holdout : result.windows.sensitivity).push_back(std::move(windows[i]));
  }
  return result;
}

}  // namespace flexquant::cli
