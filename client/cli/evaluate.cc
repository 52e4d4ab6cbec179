#include "executor/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/connection.h"
#include "client/cli/evaluate_policies.h"
#include "client/cli/evaluation/evaluation_report.h"
#include "client/cli/interrupt.h"
#include "client/cli/json_output.h"
#include "client/cli/progress.h"
#include "client/cli/text_windows.h"
#include "common/precision.h"
#include "common/status_macros.h"
#include "common/store/model_store.h"
#include "executor/runner_factory.h"
#include "executor/server.h"

namespace flexquant::cli {
namespace {

constexpr int kChunkTokens = 256;
constexpr int kExactKvCacheBits = 16;

struct Flags {
  EmbeddedFlags embedded;
  TextWindowOptions text;
  std::vector<std::string> precisions = {"all"};
  std::vector<std::string> policies;
  PolicyFlags policy;
  ReportFlags report;
  bool json = false;
};

struct Result {
  int bits = 0;
  double nll_sum = 0;
  uint64_t num_scored = 0;

  double nll() const { return nll_sum / static_cast<double>(num_scored); }
};

absl::StatusOr<std::vector<Result>> ParsePrecisions(const std::vector<std::string>& words) {
  std::vector<Result> results;
  for (const std::string& word : words) {
    int bits = 0;
    if (word == "all") {
      for (const int precision : kPrecisions) {
        results.push_back({.bits = precision});
      }
      results.push_back({.bits = kReferencePrecision});
    } else if (absl::SimpleAtoi(word, &bits) && (IsQuantizedPrecision(bits) || bits == kReferencePrecision)) {
      results.push_back({.bits = bits});
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("--precision: '", word, "' is not 3, 4, 5, 6, 8, 16 (needs the kept reference) or all"));
    }
  }
  return results;
}

absl::Status EvaluateAll(executor::ModelRunner& runner, const ModelStore& store,
                         const std::vector<std::vector<uint32_t>>& windows, std::vector<Result>& results) {
  Progress progress("windows");
  uint64_t done = 0;
  for (Result& result : results) {
    const PrecisionPlan plan = PrecisionPlan::Uniform(result.bits, store.num_layer_groups());
    for (const std::vector<uint32_t>& window : windows) {
      FQ_RETURN_IF_ERROR(Interrupt::Check());
      FQ_ASSIGN_OR_RETURN(const auto part, executor::Evaluate(runner, window, plan, kChunkTokens));
      result.nll_sum += part.nll_nats;
      result.num_scored += part.num_scored;
      progress.Update(++done, windows.size() * results.size(), absl::StrCat(result.bits, " bits"));
    }
  }
  return absl::OkStatus();
}

void PrintText(const Flags& flags, size_t num_windows, const std::vector<Result>& results) {
  std::printf("%s: %llu tokens scored in %zu windows of %zu\n", flags.text.text.c_str(),
              static_cast<unsigned long long>(results.front().num_scored), num_windows, flags.text.window);
  std::printf("%6s %12s %12s\n", "bits", "nats/token", "perplexity");
  for (const Result& result : results) {
    std::printf("%6d %12.5f %12.4f\n", result.bits, result.nll(), std::exp(result.nll()));
  }
}

void PrintAsJson(const Flags& flags, const ModelStore& store, size_t num_windows, const std::vector<Result>& results) {
  Json json = {{"model", store.model_name()}, {"model_revision", store.revision()}, {"text", flags.text.text}};
  json["window"] = flags.text.window;
  json["windows"] = num_windows;
  for (const Result& result : results) {
    json["results"].push_back({{"bits", result.bits},
                               {"tokens", result.num_scored},
                               {"nll", result.nll()},
                               {"perplexity", std::exp(result.nll())}});
  }
  PrintJson(json);
}

// The policies' runner and, where its keys and values are coarser, one for the top precision whose are not.
absl::Status RunPolicyEvaluation(const Flags& flags, const ModelStore& store, executor::ModelRunner& runner) {
  FQ_ASSIGN_OR_RETURN(const auto windows, MakeWindows(flags.text, store));
  PolicyFlags policy = flags.policy;
  policy.lookahead = flags.embedded.lookahead;
  std::unique_ptr<executor::ModelRunner> top;
  if (flags.embedded.kv_cache_bits != kExactKvCacheBits) {
    executor::ExecutorOptions options = ExecutorOptionsOf(flags.embedded);
    options.kv_cache_bits = kExactKvCacheBits;
    options.mapped_weights = true;
    options.rescore = false;  // heads below 8 bits, which it does not compute
    FQ_ASSIGN_OR_RETURN(top, executor::CreateRunner(store, options));
  }
  const PolicyRunners runners{runner, top != nullptr ? *top : runner};
  if (!flags.report.folder.empty()) {
    return MakeReport(flags.report, policy, flags.text, windows, flags.embedded, store, runners, flags.json);
  }
  return EvaluatePolicies(policy, flags.policies, flags.text, windows, store, runners, flags.json);
}

absl::Status RunEvaluate(const Flags& flags, std::vector<Result> results, bool all) {
  ConfigureLog(flags.embedded.log_level);
  FQ_ASSIGN_OR_RETURN(const auto store, ModelStore::Open(flags.embedded.model_dir));
  FQ_ASSIGN_OR_RETURN(const auto runner, executor::CreateRunner(*store, ExecutorOptionsOf(flags.embedded)));
  if (!flags.policies.empty() || !flags.report.folder.empty()) {
    return RunPolicyEvaluation(flags, *store, *runner);
  }
  if (!runner->info().has_reference) {
    const auto is_reference = [](const Result& result) { return result.bits == kReferencePrecision; };
    if (!all && std::any_of(results.begin(), results.end(), is_reference)) {
      return absl::FailedPreconditionError(
          store->has_reference()
              ? absl::StrCat(runner->info().device, " does not compute at 16 bits; use --device cpu")
              : absl::StrCat(flags.embedded.model_dir, " has no 16-bit reference; convert it with --keep-reference"));
    }
    results.erase(std::remove_if(results.begin(), results.end(), is_reference), results.end());
  }
  FQ_ASSIGN_OR_RETURN(const auto windows, MakeWindows(flags.text, *store));
  FQ_RETURN_IF_ERROR(EvaluateAll(*runner, *store, windows, results));
  if (flags.json) {
    PrintAsJson(flags, *store, windows.size(), results);
  } else {
    PrintText(flags, windows.size(), results);
  }
  return absl::OkStatus();
}

}  // namespace

void AddEvaluate(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<Flags>();
  auto* command = app.add_subcommand("evaluate", "Perplexity of a text at every precision, and what policies cost");
  command->add_option("--model", flags->embedded.model_dir, "Folder made by `flexquant convert`")->required();
  command->add_option("--text", flags->text.text, "File of UTF-8 text")->required();
  command->add_option("--precision", flags->precisions, "3, 4, 5, 6, 8, 16 or all; several with commas")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--window", flags->text.window, "Tokens that are read together; windows do not overlap")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command->add_option("--max-tokens", flags->text.max_tokens, "Only so many tokens of the text; 0 = all")
      ->capture_default_str();
  AddPolicyFlags(*command, flags->policies, flags->policy);
  AddReportFlags(*command, flags->report);
  command->get_option("--policy")->excludes(command->get_option("--precision"));
  command->get_option("--report")->excludes(command->get_option("--precision"), command->get_option("--policy"));
  AddEmbeddedFlags(*command, flags->embedded);
  command->get_option("--lookahead")
      ->description(
          "With --policy and --report: tokens whose signals a policy does not know yet, as when a controller sends "
          "steps "
          "ahead");
  AddPromptActivationsFlag(*command, flags->embedded);
  command->get_option("--prompt-activations")
      ->description(
          "With --policy and --report: bits of the activations that policies' prompts are computed with, on a CPU; "
          "what 8 bits lose counts as theirs");
  AddKvCacheBitsFlag(*command, flags->embedded);
  command->get_option("--kv-cache-bits")
      ->description(
          "Bits of keys and values, on a CPU; with --policy and --report those of the policies, and what 8 bits lose "
          "counts as theirs");
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, command, &run] {
    for (const char* name : {"--lookahead", "--prompt-activations"}) {
      if (command->count(name) > 0 && flags->policies.empty() && flags->report.folder.empty()) {
        throw CLI::RequiresError(name, "--policy or --report");
      }
    }
    const auto results = ParsePrecisions(flags->precisions);
    RequireUsage(results.status());
    const bool all = flags->precisions == std::vector<std::string>{"all"};
    run = [flags, results = *results, all] { return RunEvaluate(*flags, results, all); };
  });
}

}  // namespace flexquant::cli
