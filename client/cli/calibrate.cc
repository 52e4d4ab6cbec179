#include "executor/calibrate.h"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/calibration_plot.h"
#include "client/cli/calibration_text.h"
#include "client/cli/commands.h"
#include "client/cli/connection.h"
#include "client/cli/interrupt.h"
#include "client/cli/json_output.h"
#include "client/cli/progress.h"
#include "client/cli/terminal.h"
#include "common/calibration/calibration_file.h"
#include "common/status_macros.h"
#include "common/store/manifest.h"
#include "common/store/model_store.h"

namespace flexquant::cli {
namespace {

struct Flags {
  EmbeddedFlags embedded;
  std::string text;
  TextShare share;
  int rungs = 16;
  bool restart = false;
  std::string plot;
  bool json = false;
};

// Everything that changes a measured number, but not the machine.
std::string ProgressKey(const Flags& flags, const ModelStore& store, const std::string& text_checksum) {
  const std::string settings = absl::StrCat(FLEXQUANT_VERSION, " ", store.revision(), " ", text_checksum, " ",
                                            flags.share.tokens, " ", flags.share.holdout, " ", flags.share.window, " ",
                                            flags.rungs, flags.embedded.no_rescoring ? " not rescored" : "");
  return Checksum(settings.data(), settings.size());
}

CalibrationProgress StartingPoint(const Flags& flags, const std::string& key) {
  const std::string& folder = flags.embedded.model_dir;
  auto found = flags.restart ? std::nullopt : LoadProgress(folder);
  if (found.has_value() && found->key == key) {
    std::fprintf(stderr, "going on with %s (--restart begins anew)\n", ProgressPath(folder).c_str());
    return *std::move(found);
  }
  if (found.has_value()) {
    std::fprintf(stderr, "%s is of another text or other settings and is replaced\n", ProgressPath(folder).c_str());
  }
  CalibrationProgress progress;
  progress.key = key;
  return progress;
}

absl::StatusOr<executor::CalibrateResult> Measure(const Flags& flags, const ModelStore& store,
                                                  const CalibrationText& text, CalibrationProgress start) {
  const std::string& folder = flags.embedded.model_dir;
  // A folder that cannot be written is better noticed now than in twenty minutes.
  FQ_RETURN_IF_ERROR(SaveProgress(folder, start));
  executor::CalibrateOptions options;
  options.num_rungs = flags.rungs;
  options.num_threads = flags.embedded.threads;
  options.isa = flags.embedded.isa;
  options.rescore = !flags.embedded.no_rescoring;
  options.mapped_weights = flags.embedded.mapped_weights;
  options.cancelled = [] { return Interrupt::Requested(); };
  options.save = [&folder](const CalibrationProgress& progress) { return SaveProgress(folder, progress); };
  absl::StatusOr<executor::CalibrateResult> result;
  {
    Progress progress("GMAC");
    options.progress = [&progress](uint64_t done, uint64_t total, const std::string& what) {
      progress.Update(done, total, what);
    };
    result = executor::Calibrate(store, text.windows, options, std::move(start));
  }
  if (absl::IsCancelled(result.status())) {
    std::fprintf(stderr, "what is measured is kept in %s; the same command goes on with it\n",
                 ProgressPath(folder).c_str());
  }
  return result;
}

void PrintTable(const Flags& flags, const ModelStore& store, const executor::CalibrateResult& result) {
  const Calibration& calibration = result.calibration;
  std::printf("%s: %llu positions for sensitivities, %llu held back for the ladder, windows of %llu\n",
              flags.text.c_str(), static_cast<unsigned long long>(calibration.positions),
              static_cast<unsigned long long>(calibration.holdout_positions),
              static_cast<unsigned long long>(calibration.window));
  std::printf("%6s %10s %12s %10s %10s %10s %10s %12s\n", "bits", "MB a token", "predicted KL", "mean KL", "median KL",
              "p99 KL", "same top-1", "perplexity");
  const std::vector<uint64_t> weights = store.LayerGroupWeights();
  for (const Rung& rung : calibration.rungs) {
    std::printf("%6.2f %10.2f %12.5f %10.5f %10.5f %10.4f %8.1f %% %12.3f\n", rung.plan.MeanBits(weights),
                static_cast<double>(rung.bytes) * 1e-6, rung.predicted_kl, rung.mean_kl, rung.median_kl, rung.p99_kl,
                100 * rung.top1_agreement, rung.perplexity);
  }
  const size_t dropped = result.measured.size() - calibration.rungs.size();
  if (dropped > 0) {
    std::printf("%zu of %zu rungs dropped: a cheaper one is as good or better\n", dropped, result.measured.size());
  }
  const BackendLoss& loss = calibration.backend_loss;
  for (const auto& [what, kl] :
       {std::pair("--kv-cache-bits 8", loss.kv_cache_8), std::pair("--prompt-activations 8", loss.coarse_prompts)}) {
    if (kl.has_value()) {
      std::printf("%-22s loses %.5f nats, whatever the plan\n", what, *kl);
    }
  }
}

// What the precision requirement model is worth, and what requests that aim at a KL get.
void PrintRequirements(const executor::CalibrateResult& result) {
  for (size_t lookahead = 0; lookahead < result.quality.size(); ++lookahead) {
    const RequirementQuality& quality = result.quality[lookahead];
    std::printf(
        "\nlookahead %zu, on windows that the model was not fitted on: gamma deviance %.4f, %.4f without signals\n",
        lookahead, quality.deviance, quality.constant_deviance);
    std::printf("tenths by predicted KL, predicted ");
    for (const auto& [predicted, measured] : quality.tenths) {
      std::printf(" %.4f", predicted);
    }
    std::printf("\n                        measured  ");
    for (const auto& [predicted, measured] : quality.tenths) {
      std::printf(" %.4f", measured);
    }
    std::printf("\n%12s %12s %12s %24s\n", "KL aimed at", "MB a token", "mean KL", "95 % of requests below");
    for (const AimPoint& aim : result.calibration.requirements[lookahead].aims) {
      std::printf("%12.5f %12.2f %12.5f %24.5f\n", aim.aim_kl, aim.mean_bytes * 1e-6, aim.mean_kl, aim.p95_kl);
    }
  }
}

absl::Status CalibrateText(const Flags& flags, const ModelStore& store) {
  FQ_ASSIGN_OR_RETURN(const CalibrationText text, ReadCalibrationText(flags.text, store, flags.share));
  const std::string key = ProgressKey(flags, store, text.checksum);
  FQ_ASSIGN_OR_RETURN(executor::CalibrateResult result, Measure(flags, store, text, StartingPoint(flags, key)));
  Calibration& calibration = result.calibration;
  calibration.flexquant_version = FLEXQUANT_VERSION;
  calibration.model_revision = store.revision();
  calibration.text_name = std::filesystem::path(flags.text).filename().string();
  calibration.text_checksum = text.checksum;
  calibration.window = static_cast<uint64_t>(flags.share.window);
  FQ_RETURN_IF_ERROR(SaveCalibration(store.folder(), calibration));
  RemoveProgress(store.folder());
  if (flags.json) {
    PrintJson(Json::parse(calibration.ToJson()));
  } else {
    PrintTable(flags, store, result);
    PrintRequirements(result);
  }
  return absl::OkStatus();
}

absl::Status RunCalibrate(const Flags& flags) {
  ConfigureLog(flags.embedded.log_level);
  FQ_ASSIGN_OR_RETURN(auto store, ModelStore::Open(flags.embedded.model_dir));
  if (!flags.text.empty()) {
    FQ_RETURN_IF_ERROR(CalibrateText(flags, *store));
    // With what was just written.
    FQ_ASSIGN_OR_RETURN(store, ModelStore::Open(flags.embedded.model_dir));
  }
  if (flags.plot.empty()) {
    return absl::OkStatus();
  }
  FQ_ASSIGN_OR_RETURN(const auto calibration, store->ReadCalibration());
  if (!calibration.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat(flags.embedded.model_dir, " is not calibrated: there is nothing to plot; give --text"));
  }
  return WriteFileAtomically(flags.plot, CalibrationSvg(*calibration, store->model_name()));
}

}  // namespace

void AddCalibrate(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<Flags>();
  auto* command = app.add_subcommand("calibrate", "Measure how sensitive each layer is, and build the ladder of plans");
  command->add_option("MODEL", flags->embedded.model_dir, "Folder made by `flexquant convert`; written to")->required();
  auto* text = command->add_option("--text", flags->text, "File of UTF-8 text like that which the model will write");
  command->add_option("--tokens", flags->share.tokens, "Tokens that sensitivities are measured on")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command->add_option("--holdout", flags->share.holdout, "Other tokens that the ladder is measured on")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command->add_option("--window", flags->share.window, "Tokens that are read together")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command->add_option("--rungs", flags->rungs, "Plans on the ladder")
      ->check(CLI::Range(2, 1000))
      ->capture_default_str();
  command->add_flag("--restart", flags->restart, "Begin anew, whatever an interrupted calibration left");
  auto* plot =
      command->add_option("--plot", flags->plot, "SVG file to draw; without --text of the calibration there is");
  AddEmbeddedFlags(*command, flags->embedded);
  for (const char* other : {"--device", "--lookahead", "--kv-cache-gb"}) {
    command->remove_option(command->get_option(other));
  }
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, text, plot, &run] {
    if (text->count() == 0 && plot->count() == 0) {
      throw CLI::RequiredError("--text");
    }
    run = [flags] { return RunCalibrate(*flags); };
  });
}

}  // namespace flexquant::cli
