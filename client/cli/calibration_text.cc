#include "client/cli/calibration_text.h"

#include <cstddef>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"
#include "common/store/manifest.h"
#include "common/tokenizer/tokenizer.h"

namespace flexquant::cli {
namespace {

size_t NumWindows(int64_t tokens, int64_t window) { return static_cast<size_t>((tokens + window - 1) / window); }

absl::Status CheckShare(const std::string& path, size_t num_tokens, const TextShare& share, size_t needed,
                        int64_t context) {
  if (share.window > context) {
    return absl::InvalidArgumentError(
        absl::StrCat("--window is ", share.window, "; the model's context allows 2 to ", context, " tokens"));
  }
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
  FQ_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(store.folder()));
  FQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const auto encoded = tokenizer->Encode(text, {});
  if (!encoded.ok()) {
    return absl::Status(encoded.status().code(), absl::StrCat(path, ": ", std::string(encoded.status().message())));
  }
  const absl::Span<const uint32_t> ids = *encoded;
  const size_t num_holdout = NumWindows(share.holdout, share.window);
  const size_t needed = NumWindows(share.tokens, share.window) + num_holdout;
  const int64_t bos = tokenizer->adds_bos() ? 1 : 0;
  FQ_RETURN_IF_ERROR(CheckShare(path, ids.size(), share, needed, store.config().max_context - bos));

  CalibrationText result;
  result.checksum = Checksum(text.data(), text.size());
  const auto length = static_cast<size_t>(share.window);
  const size_t available = ids.size() / length;
  for (size_t i = 0; i < needed; ++i) {
    const auto part = ids.subspan(i * available / needed * length, length);
    std::vector<uint32_t> window(part.begin(), part.end());
    if (bos == 1) {
      window.insert(window.begin(), static_cast<uint32_t>(tokenizer->bos_id()));
    }
    const bool holdout = (i + 1) * num_holdout / needed > i * num_holdout / needed;
    (holdout ? result.windows.holdout : result.windows.sensitivity).push_back(std::move(window));
  }
  return result;
}

}  // namespace flexquant::cli
