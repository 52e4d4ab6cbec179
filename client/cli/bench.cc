#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/cli/answer.h"
#include "client/cli/bench_device.h"
#include "client/cli/bench_load.h"
#include "client/cli/commands.h"
#include "client/cli/connection.h"
#include "client/cli/interrupt.h"
#include "client/cli/machine.h"
#include "client/cli/progress.h"
#include "client/cli/rival.h"
#include "client/cli/stats.h"
#include "common/precision.h"
#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

// As in tools/rival_bench.py.
constexpr uint32_t kDecodePromptTokens = 8;

struct Flags {
  ConnectionFlags connection;
  uint32_t decode_tokens = 128;
  uint32_t prefill_tokens = 512;
  int repetitions = 5;
  std::string against;
  std::string rival_python;
  std::string rival_script;
  bool json = false;
};

// One row of the table.
struct Case {
  std::string name;
  bool prefill = false;
  bool rival = false;
  int bits = 0;  // 0 = dynamic
  std::vector<double> tokens_per_second;
  double bytes_per_token = 0;  // weights read a decoded token; 0 = not known
  double mean_bits = 0;
};

uint32_t Tokens(const Flags& flags, const Case& row) {
  return row.prefill ? flags.prefill_tokens : flags.decode_tokens;
}

std::vector<Case> MakeCases(const Flags& flags, const v1::ServerInfo& info) {
  std::vector<Case> cases;
  const auto add = [&cases](std::string name, bool prefill, bool rival, int bits) {
    cases.push_back(
        {.name = std::move(name), .prefill = prefill, .rival = rival, .bits = bits, .tokens_per_second = {}});
  };
  for (const bool prefill : {false, true}) {
    if (!prefill) {
      for (const uint32_t bits : info.precisions()) {
        add(absl::StrCat(bits, " bits"), false, false, static_cast<int>(bits));
      }
      add("dynamic", false, false, 0);
    } else {
      add(absl::StrCat(kTopPrecision, " bits"), true, false, kTopPrecision);
    }
    if (info.has_reference()) {
      add("16 bits", prefill, false, kReferencePrecision);
    }
    if (!flags.against.empty()) {
      add("llama.cpp", prefill, true, 0);
    }
  }
  return cases;
}

absl::Status MeasureOurs(const client::Client& client, const Flags& flags, uint32_t vocab_size, bool keep, Case& row) {
  v1::GenerateRequest request;
  const uint32_t prompt_tokens = row.prefill ? flags.prefill_tokens : kDecodePromptTokens;
  for (uint32_t i = 0; i < prompt_tokens; ++i) {
    request.mutable_token_ids()->add_ids((7919 * i + 13) % vocab_size);
  }
  // A prompt that the server has read before would be found in its cache.
  request.mutable_token_ids()->set_ids(0, static_cast<uint32_t>(absl::ToUnixNanos(absl::Now()) % vocab_size));
  request.mutable_stop()->set_ignore_eos(true);
  // The first token belongs to the prefill.
  request.mutable_stop()->set_max_tokens(row.prefill ? 1 : flags.decode_tokens + 1);
  if (row.bits > 0) {
    request.mutable_precision()->set_fixed_bits(static_cast<uint32_t>(row.bits));
  } else {
    request.mutable_precision()->mutable_dynamic();
  }
  Answer answer;
  FQ_RETURN_IF_ERROR(RunAnswer(
      client, request, [](const v1::GenerationDelta&) {}, answer));
  const auto& finished = answer.response.finished();
  const v1::Usage& usage = finished.usage();
  const uint32_t wanted = row.prefill ? 1 : flags.decode_tokens + 1;
  if (usage.generated_tokens() != wanted) {
    return absl::FailedPreconditionError(absl::StrCat("the answer has ", usage.generated_tokens(), " tokens, not ",
                                                      wanted,
                                                      ": the context of the model is too short; lower --tokens"));
  }
  if (!keep) {
    return absl::OkStatus();
  }
  const double ns = row.prefill ? static_cast<double>(usage.time_to_first_token_ns() - usage.queue_time_ns())
                                : static_cast<double>(usage.time_per_output_token_ns());
  row.tokens_per_second.push_back((row.prefill ? prompt_tokens : 1) * 1e9 / ns);
  if (!row.prefill) {
    row.mean_bits = finished.precision().mean_bits();
    row.bytes_per_token = static_cast<double>(finished.precision().weight_bytes_read()) / usage.generated_tokens();
  }
  return absl::OkStatus();
}

absl::Status MeasureAll(const client::Client& client, const Flags& flags, uint32_t vocab_size, Rival* rival,
                        std::vector<Case>& cases) {
  Progress progress("runs");
  uint64_t done = 0;
  const uint64_t total = cases.size() * (static_cast<uint64_t>(flags.repetitions) + 1);
  // Rounds over all cases, so that a change of the machine's speed hits them alike; the first round warms up.
  for (int round = 0; round <= flags.repetitions; ++round) {
    for (Case& row : cases) {
      FQ_RETURN_IF_ERROR(Interrupt::Check());
      progress.Update(done++, total, absl::StrCat(row.prefill ? "prefill" : "decode", " ", row.name));
      if (!row.rival) {
        FQ_RETURN_IF_ERROR(MeasureOurs(client, flags, vocab_size, round > 0, row));
        continue;
      }
      FQ_ASSIGN_OR_RETURN(const double rate, rival->Measure(row.prefill ? "prefill" : "decode", Tokens(flags, row)));
      if (round > 0) {
        row.tokens_per_second.push_back(rate);
      }
    }
  }
  return absl::OkStatus();
}

void PrintText(const Flags& flags, const v1::ServerInfo& info, const std::vector<Case>& cases) {
  std::printf("%s\n%s on %s; %d repetitions in turns, median (least to most)\n", MachineLine().c_str(),
              info.model().c_str(), info.executors(0).device().c_str(), flags.repetitions);
  for (const bool prefill : {false, true}) {
    std::printf("%s\n", prefill ? absl::StrCat("prefill of ", flags.prefill_tokens, " tokens").c_str()
                                : absl::StrCat("decode of ", flags.decode_tokens, " tokens after a prompt of ",
                                               kDecodePromptTokens)
                                      .c_str());
    for (const Case& row : cases) {
      if (row.prefill != prefill) {
        continue;
      }
      const Spread rate = Summarize(row.tokens_per_second);
      std::string line =
          absl::StrFormat("  %-10s %8.1f tokens/s (%.1f to %.1f)", row.name, rate.median, rate.min, rate.max);
      if (row.bytes_per_token > 0) {
        absl::StrAppendFormat(&line, "  %.2f GB/s of weights", row.bytes_per_token * rate.median * 1e-9);
      }
      if (row.bits == 0 && !row.rival) {
        absl::StrAppendFormat(&line, ", mean %.2f bits", row.mean_bits);
      }
      std::puts(line.c_str());
    }
  }
}

void PrintAsJson(const Flags& flags, const v1::ServerInfo& info, const std::string& rival_version,
                 const std::vector<Case>& cases) {
  Json json;
  json["machine"] = MachineLine();
  json["model"] = info.model();
  json["model_revision"] = info.model_revision();
  json["device"] = info.executors(0).device();
  json["repetitions"] = flags.repetitions;
  if (!flags.against.empty()) {
    json["against"] = {{"model", flags.against}, {"llama_cpp_python", rival_version}};
  }
  for (const Case& row : cases) {
    const Spread rate = Summarize(row.tokens_per_second);
    Json entry = {{"name", row.name}, {"tokens", Tokens(flags, row)}};
    entry["tokens_per_second"] = {{"median", rate.median}, {"min", rate.min}, {"max", rate.max}};
    if (row.bytes_per_token > 0) {
      entry["mean_bits"] = row.mean_bits;
      entry["weight_bytes_per_token"] = row.bytes_per_token;
      entry["weight_bytes_per_second"] = row.bytes_per_token * rate.median;
    }
    json[row.prefill ? "prefill" : "decode"].push_back(entry);
  }
  PrintJson(json);
}

// tools/rival_bench.py of the tree this program was built in.
std::string DefaultRivalScript() {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  return (program.parent_path() / "../../../tools/rival_bench.py").lexically_normal().string();
}

absl::Status RunBench(const Flags& flags) {
  std::unique_ptr<Rival> rival;
  if (!flags.against.empty()) {
    const std::string script = flags.rival_script.empty() ? DefaultRivalScript() : flags.rival_script;
    FQ_ASSIGN_OR_RETURN(rival,
                        Rival::Start(flags.rival_python, script, flags.against, flags.connection.embedded.threads));
  }
  FQ_ASSIGN_OR_RETURN(const auto connection, Connection::Open(flags.connection));
  FQ_ASSIGN_OR_RETURN(const v1::ServerInfo info, connection->client().GetServerInfo());
  if (info.executors_size() == 0) {
    return absl::UnavailableError("no executor");
  }
  std::vector<Case> cases = MakeCases(flags, info);
  FQ_RETURN_IF_ERROR(MeasureAll(connection->client(), flags, info.vocab_size(), rival.get(), cases));
  if (flags.json) {
    PrintAsJson(flags, info, rival == nullptr ? "" : rival->version(), cases);
  } else {
    PrintText(flags, info, cases);
  }
  return absl::OkStatus();
}

}  // namespace

void AddBench(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<Flags>();
  auto* command = app.add_subcommand("bench", "Measure decode and prefill speed at every precision");
  command->require_subcommand(0, 1);
  AddDeviceBench(*command, run);
  AddLoadBench(*command, run);
  command->add_option("--model", flags->connection.embedded.model_dir, "Folder made by `flexquant convert`");
  AddEmbeddedFlags(*command, flags->connection.embedded);
  command->add_option("--tokens", flags->decode_tokens, "Tokens to decode")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_option("--prefill", flags->prefill_tokens, "Tokens to prefill")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_option("--repetitions", flags->repetitions, "Measurements of each case, after one that warms up")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  auto* against =
      command->add_option("--against", flags->against, "GGUF file: measure llama.cpp on it in the same run");
  auto* python = command->add_option("--rival-python", flags->rival_python, "Python that has llama-cpp-python");
  against->needs(python)->needs(command->get_option("--threads"));
  python->needs(against);
  command->add_option("--rival-script", flags->rival_script, "tools/rival_bench.py; default: of this program's tree");
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, command, &run] {
    if (!command->get_subcommands().empty()) {
      return;
    }
    if (flags->connection.embedded.model_dir.empty()) {
      RequireUsage(
          absl::InvalidArgumentError("--model is required: a folder made by `flexquant convert`; or `decode`, "
                                     "`prefill` or `load` for a GPU's speed"));
    }
    if (!flags->against.empty() && flags->connection.embedded.threads == 0) {
      RequireUsage(absl::InvalidArgumentError("--against needs --threads of at least 1, the same for both"));
    }
    run = [flags] { return RunBench(*flags); };
  });
}

}  // namespace flexquant::cli
