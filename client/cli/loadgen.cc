#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/connection.h"
#include "client/cli/json_output.h"
#include "client/cli/load/load_report.h"
#include "client/cli/load/load_run.h"
#include "client/cli/load/trace.h"
#include "client/cli/machine.h"
#include "client/cli/progress.h"
#include "client/cli/request_flags.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

struct Flags {
  ConnectionFlags connection;
  RequestFlags request;
  std::string trace;
  size_t requests = 100;
  double rate = 1;
  uint32_t prompt_tokens = 128;
  uint32_t answer_tokens = 64;
  double max_ttft_ms = 0;
  double max_tpot_ms = 0;
  std::string plot;
  std::string answers;
  bool json = false;
  LoadOptions load;
};

absl::Status WriteAnswers(const std::string& path, const std::vector<LoadResult>& results) {
  std::string lines;
  for (const LoadResult& result : results) {
    const Json line = {{"index", result.index},
                       {"status", std::string(absl::StatusCodeToString(result.status.code()))},
                       {"message", std::string(result.status.message())},
                       {"cancelled", result.cancelled},
                       {"token_ids", result.token_ids},
                       {"arrival_s", absl::ToDoubleSeconds(result.arrival)},
                       {"longest_gap_s", absl::ToDoubleSeconds(result.longest_gap)},
                       {"end_s", absl::ToDoubleSeconds(result.end)},
                       {"mean_bits", result.mean_bits}};
    absl::StrAppend(&lines, line.dump(), "\n");
  }
  return WriteFile(path, lines);
}

absl::StatusOr<std::vector<TraceRequest>> MakeTrace(const Flags& flags) {
  if (!flags.trace.empty()) {
    return ReadTrace(flags.trace, flags.requests);
  }
  return PoissonTrace(flags.requests, flags.rate, flags.prompt_tokens, flags.answer_tokens, flags.load.seed);
}

absl::Status RunLoadgen(Flags flags) {
  FQ_ASSIGN_OR_RETURN(const std::vector<TraceRequest> trace, MakeTrace(flags));
  FQ_ASSIGN_OR_RETURN(const auto connection, Connection::Open(flags.connection));
  FQ_ASSIGN_OR_RETURN(const v1::ServerInfo info, connection->client().GetServerInfo());
  flags.load.vocab_size = info.vocab_size();
  Progress progress("requests");
  std::vector<LoadResult> results;
  const absl::Status played = PlayTrace(
      connection->client(), trace, flags.load,
      [&](size_t done) { progress.Update(done, trace.size(), flags.trace.empty() ? "poisson" : flags.trace); },
      &results);
  LoadLimits limits;
  if (flags.max_ttft_ms > 0) {
    limits.time_to_first_token = absl::Milliseconds(flags.max_ttft_ms);
  }
  if (flags.max_tpot_ms > 0) {
    limits.time_per_output_token = absl::Milliseconds(flags.max_tpot_ms);
  }
  const LoadSummary summary = Summarize(results, limits);
  if (flags.json) {
    Json json = ToJson(summary);
    json["server"] = {{"model", info.model()}, {"executors", info.executors_size()}};
    json["machine"] = MachineLine();
    PrintJson(json);
  } else {
    std::fputs(ToText(summary).c_str(), stdout);
  }
  if (!flags.answers.empty()) {
    FQ_RETURN_IF_ERROR(WriteAnswers(flags.answers, results));
  }
  if (!flags.plot.empty()) {
    FQ_RETURN_IF_ERROR(WriteFile(flags.plot, LoadPlot(results, summary)));
  }
  return played;
}

void AddLoadFlags(CLI::App& app, Flags& flags) {
  auto* trace = app.add_option("--trace", flags.trace,
                               "Arrivals and lengths: a CSV of Azure's LLM inference traces, or a Mooncake .jsonl");
  app.add_option("--requests", flags.requests, "Requests to send, the first ones of the trace")
      ->check(CLI::Range(size_t{1}, size_t{10'000'000}))
      ->capture_default_str();
  for (CLI::Option* option :
       {app.add_option("--rate", flags.rate, "Without a trace: requests a second, at random times; 0 = all at once")
            ->check(CLI::Range(0.0, 1e6)),
        app.add_option("--prompt-tokens", flags.prompt_tokens, "Without a trace: tokens of each prompt")
            ->check(CLI::Range(1U, 1U << 20U)),
        app.add_option("--answer-tokens", flags.answer_tokens, "Without a trace: tokens of each answer")
            ->check(CLI::Range(1U, 1U << 20U))}) {
    option->capture_default_str()->excludes(trace);
  }
  app.add_option("--time-scale", flags.load.time_scale, "Arrivals come so many times later than in the trace")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--token-scale", flags.load.token_scale, "Prompts and answers have so many times the trace's tokens")
      ->check(CLI::Range(1e-6, 1e3))
      ->capture_default_str();
  app.add_option("--max-prompt-tokens", flags.load.max_prompt_tokens, "Longer prompts are cut")
      ->check(CLI::Range(1U, 1U << 20U))
      ->capture_default_str();
  app.add_option("--max-answer-tokens", flags.load.max_answer_tokens, "Longer answers are cut")
      ->check(CLI::Range(1U, 1U << 20U))
      ->capture_default_str();
  app.add_option("--cancel-share", flags.load.cancel_share, "Share of the requests that are cancelled midway")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--max-concurrent", flags.load.max_concurrent, "Requests under way beyond which none is sent")
      ->check(CLI::Range(1U, 65536U))
      ->capture_default_str();
  app.add_option("--load-seed", flags.load.seed, "Seed of prompts, arrivals and each request's sampling")
      ->capture_default_str();
  app.add_option("--max-ttft-ms", flags.max_ttft_ms, "Good answers begin within so long; 0 = whenever")
      ->check(CLI::Range(0.0, 1e9));
  app.add_option("--max-tpot-ms", flags.max_tpot_ms, "Good answers have a mean time a token of so long; 0 = any")
      ->check(CLI::Range(0.0, 1e9));
}

}  // namespace

void AddLoadgen(CLI::App& parent, RunCommand& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = parent.add_subcommand("loadgen", "Play a trace of requests against a server and measure its answers");
  AddLoadFlags(*app, *flags);
  app->add_option("--answers", flags->answers, "File to write every answer's tokens and status to, JSON lines");
  app->add_option("--plot", flags->plot, "SVG file to draw the percentiles into");
  app->add_flag("--json", flags->json, "Print JSON");
  AddConnectionFlags(*app, flags->connection);
  AddRequestFlags(*app, flags->request);
  app->callback([flags, &run] {
    RequireUsage(FillRequest(flags->request, flags->load.request));
    run = [flags] { return RunLoadgen(*flags); };
  });
}

}  // namespace flexquant::cli
