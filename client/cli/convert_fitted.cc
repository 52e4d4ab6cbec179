#include "client/cli/convert_fitted.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/progress.h"
#include "client/cli/text_windows.h"
#include "common/status_macros.h"
#include "common/store/channel_scales.h"
#include "common/store/model_store.h"
#include "common/store/package_writer.h"
#include "executor/activation_statistics.h"

namespace flexquant::cli {
namespace {

constexpr int64_t kWindow = 256;

// Removed at the end, whatever happens.
class ScratchFolder {
 public:
  explicit ScratchFolder(std::string path) : path_(std::move(path)) {}
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

struct FitWindows {
  std::vector<std::vector<uint32_t>> windows;
  FitText text;
};

absl::StatusOr<FitWindows> ReadWindows(const FitFlags& fit, const ModelStore& store) {
  FQ_ASSIGN_OR_RETURN(const TokenizedText text, TokenizedText::Read(fit.text, store));
  // One less than the context, for BOS.
  const auto length = static_cast<size_t>(std::min(kWindow, store.config().max_context - 1));
  const size_t count = (static_cast<size_t>(fit.tokens) + length - 1) / length;
  if (text.ids().size() < count * length) {
    return absl::InvalidArgumentError(absl::StrCat(
        fit.text, " has ", text.ids().size(), " tokens; --calibrate-tokens ", fit.tokens, " needs ", count,
        " windows of ", length, ", ", count * length, " tokens; give a longer text or lower --calibrate-tokens"));
  }
  FitWindows result;
  result.windows = text.SpreadWindows(count, length);
  result.text.name = std::filesystem::path(fit.text).filename().string();
  result.text.checksum = Checksum(text.text().data(), text.text().size());
  result.text.tokens = count * length;
  return result;
}

absl::StatusOr<ActivationStatistics> Measure(const ModelStore& store, const FitWindows& windows,
                                             const ConvertOptions& options) {
  Progress progress("windows");
  executor::ActivationStatisticsOptions measure;
  measure.num_threads = options.num_threads;
  measure.cancelled = options.cancelled;
  measure.progress = [&progress](uint64_t done, uint64_t total) { progress.Update(done, total, "activations"); };
  return executor::MeasureActivations(store, windows.windows, measure);
}

absl::StatusOr<std::vector<ChannelScales>> Search(ModelSource& source, const ActivationStatistics& statistics,
                                                  const ConvertOptions& options) {
  Progress progress("blocks");
  ChannelScaleOptions search;
  search.group_size = options.group_size;
  search.num_threads = options.num_threads;
  search.cancelled = options.cancelled;
  search.progress = [&progress](uint64_t done, uint64_t total) { progress.Update(done, total, "channel scales"); };
  return FindChannelScales(source, statistics, search);
}

// The unquantised model's activations on the text; opens a package of its weights for that long.
absl::StatusOr<ActivationStatistics> MeasureSource(ModelSource& source, const std::string& destination,
                                                   const ConvertOptions& options, const FitFlags& fit, FitText* text) {
  const ScratchFolder folder(
      absl::StrCat(std::filesystem::path(destination + "/").parent_path().string(), ".reference-", getpid()));
  ConvertOptions reference;
  reference.group_size = options.group_size;
  reference.keep_reference = true;
  reference.only_reference = true;
  reference.overwrite = true;
  reference.num_threads = options.num_threads;
  reference.cancelled = options.cancelled;
  FQ_RETURN_IF_ERROR(Convert(source, folder.path(), reference).status());
  FQ_ASSIGN_OR_RETURN(const auto store, ModelStore::Open(folder.path()));
  FQ_ASSIGN_OR_RETURN(FitWindows windows, ReadWindows(fit, *store));
  *text = windows.text;
  return Measure(*store, windows, options);
}

}  // namespace

absl::StatusOr<ConvertReport> ConvertFitted(ModelSource& source, const std::string& destination,
                                            const ConvertOptions& options, const FitFlags& fit) {
  // Better refused now than in some minutes.
  FQ_RETURN_IF_ERROR(StagingFolder::Create(destination, options.overwrite).status());
  FitText text;
  FQ_ASSIGN_OR_RETURN(ActivationStatistics statistics, MeasureSource(source, destination, options, fit, &text));
  FQ_ASSIGN_OR_RETURN(std::vector<ChannelScales> scales, Search(source, statistics, options));
  statistics = FoldStatistics(source.config(), scales, std::move(statistics));
  const std::unique_ptr<ModelSource> folded = FoldedSource(source, std::move(scales));
  ConvertOptions fitted = options;
  fitted.activations = &statistics;
  fitted.fit_text = std::move(text);
  return Convert(*folded, destination, fitted);
}

}  // namespace flexquant::cli
