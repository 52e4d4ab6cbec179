#include "client/cli/evaluation/evaluation_report.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "client/cli/evaluation/ablations.h"
#include "client/cli/evaluation/answer_report.h"
#include "client/cli/evaluation/evaluation_log.h"
#include "client/cli/evaluation/policy_report.h"
#include "client/cli/evaluation/report_html.h"
#include "client/cli/evaluation/report_markdown.h"
#include "client/cli/evaluation/task_report.h"
#include "client/cli/machine.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"
#include "common/store/manifest.h"

namespace flexquant::cli {
namespace {

namespace fs = std::filesystem;
constexpr char kGroup[] = "Report";

std::string Word(const auto& value) { return value.has_value() ? absl::StrCat(*value) : "-"; }

// Everything that changes what a policy does in a window of the text, however many windows there are.
std::string LogKey(const PolicyFlags& policy, const TextWindowOptions& text, const std::string& text_checksum,
                   const ModelStore& store, const Calibration& calibration, const PolicyRunners& runners) {
  const std::string fitted = calibration.ToJson();
  const RequestFlags& p = policy.parameters;
  return absl::StrCat(FLEXQUANT_VERSION, " ", store.revision(), " ", Checksum(fitted.data(), fitted.size()), " ",
                      text_checksum, " ", text.window, " ", policy.prompt_tokens, " ", policy.lookahead, " ",
                      policy.seed, " ", Word(p.min_bits), " ", Word(p.max_bits), " ", Word(p.entropy_high), " ",
                      Word(p.hysteresis), " ", Word(p.pple_weight), " ", Word(p.tokens_per_level), " ",
                      runners.policies.info().device);
}

Json Facts(const PolicyFlags& policy, const TextWindowOptions& text, const std::string& text_checksum,
           const ModelStore& store, const ReportContext& context) {
  Json json = {{"flexquant_version", FLEXQUANT_VERSION},
               {"model", store.model_name()},
               {"model_revision", store.revision()},
               {"calibration_text", context.calibration.text_name},
               {"text", fs::path(text.text).filename().string()},
               {"text_checksum", text_checksum}};
  uint64_t tokens = 0;
  for (const PolicyWindow& window : context.windows) {
    tokens += window.tokens.size() - window.prompt_tokens;
  }
  json["window"] = text.window;
  json["windows"] = context.windows.size();
  json["prompt_tokens"] = policy.prompt_tokens;
  json["tokens"] = tokens;
  json["lookahead"] = policy.lookahead;
  json["seed"] = policy.seed;
  json["bootstrap_draws"] = Resampler::kDraws;
  json["device"] = context.runners.policies.info().device;
  json["machine"] = MachineLine();
  return json;
}

// nullopt if no folder is given.
absl::StatusOr<std::optional<Calibration>> ReadOtherCalibration(const std::string& folder, const ModelStore& store) {
  if (folder.empty()) {
    return std::nullopt;
  }
  FQ_ASSIGN_OR_RETURN(const auto other, ModelStore::Open(folder));
  if (other->revision() != store.revision()) {
    return absl::InvalidArgumentError(absl::StrCat("--other-calibration ", folder, " has other weights (revision ",
                                                   other->revision(), ") than ", store.folder(), " (", store.revision(),
                                                   "); calibrate a copy of it"));
  }
  FQ_ASSIGN_OR_RETURN(auto calibration, other->ReadCalibration());
  if (!calibration.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("--other-calibration ", folder, " is not calibrated; run `flexquant calibrate` on it first"));
  }
  return calibration;
}

std::string CheckTask(const std::string& word) {
  const size_t at = word.find('=');
  return at == std::string::npos || at == 0 || at + 1 == word.size()
             ? absl::StrCat("'", word, "' is not NAME=FILE, such as piqa=piqa.jsonl")
             : "";
}

void PrintSummary(const Json& report, const std::string& folder) {
  std::printf("%-22s %7s %10s %23s %8s %10s\n", "policy", "bits*", "KL", "95 % interval", "top-1 %", "perplexity");
  for (const Json& p : report["policies"]) {
    const Json& kl = p["kl_mean"];
    std::printf("%-22s %7.3f %10.5f %11.5f-%11.5f %8.2f %10.4f\n", p["policy"].get<std::string>().c_str(),
                p["mean_bits"]["value"].get<double>(), kl["value"].get<double>(), kl["low"].get<double>(),
                kl["high"].get<double>(), 100 * p["top1_agreement"]["value"].get<double>(),
                p["perplexity"]["value"].get<double>());
  }
  std::printf("* bytes read, as a share of those at %d bits, times %d\n\n", kTopPrecision, kTopPrecision);
  for (const Json& claim : report["claims"]) {
    std::printf("%-4s %-22s %s\n", claim["holds"].get<bool>() ? "yes" : "NO",
                claim["policy"].get<std::string>().c_str(), claim["claim"].get<std::string>().c_str());
  }
  std::printf("\n%s/report.html, report.md, report.json\n", folder.c_str());
}

}  // namespace

void AddReportFlags(CLI::App& app, ReportFlags& flags) {
  const auto add = [&](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->group(kGroup);
  };
  add("--report", flags.folder,
      "Folder for report.html, report.md and report.json: every policy against its controls, token by token, with "
      "intervals "
      "(calibrated models). An interrupted run goes on");
  add("--budgets", flags.budgets, "Budgets of mean KL to serve, in nats; several with commas")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  add("--oracle-windows", flags.oracle_windows, "Windows that the oracle sees, which runs many plans a token; 0 = none")
      ->capture_default_str();
  auto* ablations = app.add_flag("--ablations", flags.ablations,
                                 "Also run policies without parts of theirs: lookahead, ways back up, hysteresis, "
                                 "signals, the ladder's order");
  ablations->group(kGroup);
  add("--other-calibration", flags.other_calibration,
      "With --ablations: copy of the model's folder that was calibrated on another text, to serve the budgets with")
      ->needs(ablations);
  add("--tasks", flags.tasks, "NAME=FILE ...: accuracy in tasks, by log-likelihood")->check(CheckTask);
  add("--prompts", flags.prompts, "File of prompts to answer freely, a line of JSON each");
  add("--limit", flags.limit, "Items of each task, and prompts, spread evenly over the file; 0 = all")
      ->capture_default_str();
  add("--answer-tokens", flags.answer_tokens, "Most tokens of an answer to a prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
}

absl::Status MakeReport(const ReportFlags& flags, const PolicyFlags& policy, const TextWindowOptions& text,
                        const std::vector<std::vector<uint32_t>>& windows, const EmbeddedFlags& embedded,
                        const ModelStore& store, const PolicyRunners& runners, bool json) {
  FQ_ASSIGN_OR_RETURN(const auto calibration, store.ReadCalibration());
  if (!calibration.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat(store.folder(), " is not calibrated; run `flexquant calibrate` first, or give --policy"));
  }
  FQ_ASSIGN_OR_RETURN(const auto other_calibration, ReadOtherCalibration(flags.other_calibration, store));
  FQ_ASSIGN_OR_RETURN(const auto prompted, WithPrompts(windows, policy.prompt_tokens));
  FQ_ASSIGN_OR_RETURN(const std::string text_checksum, FileChecksum(text.text));
  FQ_ASSIGN_OR_RETURN(const auto tasks, ReadTasks(flags.tasks, flags.limit, store));
  Prompts prompts;
  if (!flags.prompts.empty()) {
    FQ_ASSIGN_OR_RETURN(prompts, ReadPrompts(flags.prompts, flags.limit));
  }
  std::error_code error;
  fs::create_directories(flags.folder, error);
  if (error) {
    return absl::PermissionDeniedError(absl::StrCat("cannot make ", flags.folder, ": ", error.message()));
  }
  const std::string key = LogKey(policy, text, text_checksum, store, *calibration, runners);
  FQ_ASSIGN_OR_RETURN(const auto log, EvaluationLog::Open((fs::path(flags.folder) / "measured.jsonl").string(), key));
  std::vector<double> budgets = flags.budgets;
  std::sort(budgets.begin(), budgets.end());
  budgets.erase(std::unique(budgets.begin(), budgets.end()), budgets.end());
  // No plan has 16 bits: the reference's type does not count.
  const controller::LayerGroups groups(store.config(), store.group_size(), Dtype::kBF16);
  const ReportContext context{policy,  budgets, flags.oracle_windows, *calibration, other_calibration, groups, prompted,
                              runners, *log};
  Json report = Facts(policy, text, text_checksum, store, context);
  FQ_ASSIGN_OR_RETURN(const auto measured, MeasurePolicies(context));
  DescribePolicies(context, measured, report);
  if (flags.ablations) {
    FQ_ASSIGN_OR_RETURN(report["ablations"], ReportAblations(context, measured));
  }
  if (!tasks.empty()) {
    FQ_ASSIGN_OR_RETURN(report["tasks"], ReportTasks(context, tasks));
  }
  if (!prompts.prompts.empty()) {
    FQ_ASSIGN_OR_RETURN(report["answers"], ReportAnswers(context, prompts, flags.answer_tokens, embedded, store));
  }

  const std::string words = report.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  FQ_RETURN_IF_ERROR(WriteFileAtomically((fs::path(flags.folder) / "report.json").string(), words));
  FQ_RETURN_IF_ERROR(WriteFileAtomically((fs::path(flags.folder) / "report.html").string(), ReportHtml(report)));
  FQ_RETURN_IF_ERROR(WriteFileAtomically((fs::path(flags.folder) / "report.md").string(), ReportMarkdown(report)));
  if (json) {
    PrintJson(report);
  } else {
    PrintSummary(report, flags.folder);
  }
  return absl::OkStatus();
}

}  // namespace flexquant::cli
