#include "executor/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "client/cli/commands.h"
#include "client/cli/connection.h"
#include "client/cli/interrupt.h"
#include "client/cli/json_output.h"
#include "client/cli/progress.h"
#include "common/mapped_file.h"
#include "common/precision.h"
#include "common/status_macros.h"
#include "common/store/model_store.h"
#include "common/tokenizer/tokenizer.h"
#include "executor/runner_factory.h"
#include "executor/server.h"

namespace flexquant::cli {
namespace {

constexpr int kChunkTokens = 256;

struct Flags {
  EmbeddedFlags embedded;
  std::string text;
  std::vector<std::string> precisions = {"all"};
  size_t window = 512;
  size_t max_tokens = 0;
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

// The text cut into windows without overlap, each begun with BOS where the model's texts are.
absl::StatusOr<std::vector<std::vector<uint32_t>>> MakeWindows(const Flags& flags, const ModelStore& store) {
  FQ_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(store.folder()));
  FQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.text));
  auto encoded = tokenizer->Encode(text, {});
  if (!encoded.ok()) {
    return absl::Status(encoded.status().code(),
                        absl::StrCat(flags.text, ": ", std::string(encoded.status().message())));
  }
  absl::Span<const uint32_t> ids = *encoded;
  if (flags.max_tokens > 0) {
    ids = ids.subspan(0, flags.max_tokens);
  }
  const size_t bos = tokenizer->adds_bos() ? 1 : 0;
  if (flags.window + bos > static_cast<size_t>(store.config().max_context)) {
    return absl::InvalidArgumentError(absl::StrCat("--window is ", flags.window, "; the model's context allows 2 to ",
                                                   static_cast<size_t>(store.config().max_context) - bos, " tokens"));
  }
  std::vector<std::vector<uint32_t>> windows;
  for (size_t begin = 0; begin < ids.size(); begin += flags.window) {
    const auto part = ids.subspan(begin, flags.window);
    std::vector<uint32_t> window(part.begin(), part.end());
    if (bos == 1) {
      window.insert(window.begin(), static_cast<uint32_t>(tokenizer->bos_id()));
    }
    // The first token of a window is not scored.
    if (window.size() >= 2) {
      windows.push_back(std::move(window));
    }
  }
  if (windows.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(flags.text, " has ", ids.size(), " tokens; at least 2 are needed"));
  }
  return windows;
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
  std::printf("%s: %llu tokens scored in %zu windows of %zu\n", flags.text.c_str(),
              static_cast<unsigned long long>(results.front().num_scored), num_windows, flags.window);
  std::printf("%6s %12s %12s\n", "bits", "nats/token", "perplexity");
  for (const Result& result : results) {
    std::printf("%6d %12.5f %12.4f\n", result.bits, result.nll(), std::exp(result.nll()));
  }
}

void PrintAsJson(const Flags& flags, const ModelStore& store, size_t num_windows, const std::vector<Result>& results) {
  Json json = {{"model", store.model_name()}, {"model_revision", store.revision()}, {"text", flags.text}};
  json["window"] = flags.window;
  json["windows"] = num_windows;
  for (const Result& result : results) {
    json["results"].push_back({{"bits", result.bits},
                               {"tokens", result.num_scored},
                               {"nll", result.nll()},
                               {"perplexity", std::exp(result.nll())}});
  }
  PrintJson(json);
}

absl::Status RunEvaluate(const Flags& flags, std::vector<Result> results, bool all) {
  ConfigureLog(flags.embedded.log_level);
  FQ_ASSIGN_OR_RETURN(const auto store, ModelStore::Open(flags.embedded.model_dir));
  executor::ExecutorOptions options;
  options.device = flags.embedded.device;
  options.num_threads = flags.embedded.threads;
  options.isa = flags.embedded.isa;
  options.kv_cache_bytes = static_cast<uint64_t>(flags.embedded.kv_cache_gb * 1e9);
  FQ_ASSIGN_OR_RETURN(const auto runner, executor::CreateRunner(*store, options));
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
  FQ_ASSIGN_OR_RETURN(const auto windows, MakeWindows(flags, *store));
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
  auto* command = app.add_subcommand("evaluate", "Perplexity of a text at every precision");
  command->add_option("--model", flags->embedded.model_dir, "Folder made by `flexquant convert`")->required();
  command->add_option("--text", flags->text, "File of UTF-8 text")->required();
  command->add_option("--precision", flags->precisions, "3, 4, 5, 6, 8, 16 or all; several with commas")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--window", flags->window, "Tokens that are read together; windows do not overlap")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command->add_option("--max-tokens", flags->max_tokens, "Only so many tokens of the text; 0 = all")
      ->capture_default_str();
  AddEmbeddedFlags(*command, flags->embedded);
  command->remove_option(command->get_option("--lookahead"));
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, &run] {
    const auto results = ParsePrecisions(flags->precisions);
    RequireUsage(results.status());
    const bool all = flags->precisions == std::vector<std::string>{"all"};
    run = [flags, results = *results, all] { return RunEvaluate(*flags, results, all); };
  });
}

}  // namespace flexquant::cli
