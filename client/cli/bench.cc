#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/bench_cases.h"
#include "client/cli/bench_device.h"
#include "client/cli/bench_load.h"
#include "client/cli/commands.h"
#include "client/cli/connection.h"
#include "client/cli/json_output.h"
#include "client/cli/machine.h"
#include "client/cli/memory_read.h"
#include "client/cli/rival.h"
#include "client/cli/stats.h"
#include "common/status_macros.h"
#include "common/thread_pool.h"

namespace flexquant::cli {
namespace {

struct Flags {
  ConnectionFlags connection;
  BenchSizes sizes;
  std::string against;
  std::string rival_python;
  std::string rival_script;
  bool json = false;
};

// What was measured.
struct Results {
  std::vector<BenchCase> cases;
  std::vector<double> read_rates;  // bytes a second of reading memory; empty = not measured
};

using Work = BenchCase::Work;

// Larger than the caches of most machines.
constexpr uint64_t kReadBytes = uint64_t{512} << 20;

std::string Title(const BenchSizes& sizes, Work work) {
  if (work == Work::kPrefill) {
    return absl::StrCat("prefill of ", sizes.prefill_tokens, " tokens");
  }
  return absl::StrCat("decode of ", sizes.decode_tokens, " tokens after a prompt of ", kDecodePromptTokens,
                      work == Work::kDecode ? "" : absl::StrCat(", ", sizes.sequences, " sequences together"));
}

// Weights read a second, if each sequence's token read them all.
double WeightRate(const BenchCase& row) { return row.bytes_per_token * Summarize(row.tokens_per_second).median; }

// Median rate over the rival's at the same work; 0 = there is none.
double OverRival(const Results& results, const BenchCase& row) {
  for (const BenchCase& other : results.cases) {
    if (other.rival && !row.rival && other.work == row.work) {
      return Summarize(row.tokens_per_second).median / Summarize(other.tokens_per_second).median;
    }
  }
  return 0;
}

void PrintRow(const Results& results, const BenchCase& row) {
  const Spread rate = Summarize(row.tokens_per_second);
  std::string line =
      absl::StrFormat("  %-10s %8.1f tokens/s (%.1f to %.1f)", row.name, rate.median, rate.min, rate.max);
  if (const double ratio = OverRival(results, row); ratio > 0) {
    absl::StrAppendFormat(&line, "  %.2f x llama.cpp", ratio);
  }
  if (row.work == Work::kDecode && row.bytes_per_token > 0) {
    absl::StrAppendFormat(&line, "  %.2f GB/s of weights", WeightRate(row) * 1e-9);
    if (!results.read_rates.empty()) {
      absl::StrAppendFormat(&line, ", %.0f %% of reading memory",
                            100 * WeightRate(row) / Summarize(results.read_rates).median);
    }
  }
  if (row.bits == 0 && !row.rival) {
    absl::StrAppendFormat(&line, ", mean %.2f bits", row.mean_bits);
  }
  std::puts(line.c_str());
}

void PrintText(const Flags& flags, const v1::ServerInfo& info, const Results& results) {
  std::printf("%s\n%s on %s; %d repetitions in turns, median (least to most)\n", MachineLine().c_str(),
              info.model().c_str(), info.executors(0).device().c_str(), flags.sizes.repetitions);
  if (!results.read_rates.empty()) {
    const Spread read = Summarize(results.read_rates);
    std::puts(absl::StrFormat("reading memory: %.2f GB/s (%.2f to %.2f)", read.median * 1e-9, read.min * 1e-9,
                              read.max * 1e-9)
                  .c_str());
  }
  for (const Work work : {Work::kDecode, Work::kDecodeTogether, Work::kPrefill}) {
    bool titled = false;
    for (const BenchCase& row : results.cases) {
      if (row.work != work) {
        continue;
      }
      if (!titled) {
        std::puts(Title(flags.sizes, work).c_str());
        titled = true;
      }
      PrintRow(results, row);
    }
  }
}

void PrintAsJson(const Flags& flags, const v1::ServerInfo& info, const std::string& rival_version,
                 const Results& results) {
  const auto spread = [](const Spread& of) { return Json{{"median", of.median}, {"min", of.min}, {"max", of.max}}; };
  Json json;
  json["machine"] = MachineLine();
  json["model"] = info.model();
  json["model_revision"] = info.model_revision();
  json["device"] = info.executors(0).device();
  json["repetitions"] = flags.sizes.repetitions;
  if (!flags.against.empty()) {
    json["against"] = {{"model", flags.against}, {"llama_cpp_python", rival_version}};
  }
  if (!results.read_rates.empty()) {
    json["memory_bytes_per_second"] = spread(Summarize(results.read_rates));
  }
  for (const BenchCase& row : results.cases) {
    const bool prefill = row.work == Work::kPrefill;
    Json entry = {{"name", row.name}, {"tokens", prefill ? flags.sizes.prefill_tokens : flags.sizes.decode_tokens}};
    entry["tokens_per_second"] = spread(Summarize(row.tokens_per_second));
    if (const double ratio = OverRival(results, row); ratio > 0) {
      entry["over_llama_cpp"] = ratio;
    }
    if (row.bytes_per_token > 0) {
      entry["mean_bits"] = row.mean_bits;
      entry["weight_bytes_per_token"] = row.bytes_per_token;
    }
    if (row.work == Work::kDecode && row.bytes_per_token > 0) {
      entry["weight_bytes_per_second"] = WeightRate(row);
    }
    if (row.work == Work::kDecodeTogether) {
      entry["sequences"] = flags.sizes.sequences;
    }
    json[prefill ? "prefill" : row.work == Work::kDecode ? "decode" : "decode_together"].push_back(entry);
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
  std::unique_ptr<MemoryRead> memory;
  if (flags.connection.embedded.device == "cpu") {
    const int threads = flags.connection.embedded.threads;
    FQ_ASSIGN_OR_RETURN(memory, MemoryRead::Create(kReadBytes, threads > 0 ? threads : DefaultNumThreads()));
  }
  Results results;
  results.cases = MakeBenchCases(flags.sizes, info, rival != nullptr);
  FQ_RETURN_IF_ERROR(MeasureBenchCases(connection->client(), flags.sizes, info.vocab_size(), rival.get(), memory.get(),
                                       results.cases, results.read_rates));
  if (flags.json) {
    PrintAsJson(flags, info, rival == nullptr ? "" : rival->version(), results);
  } else {
    PrintText(flags, info, results);
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
  AddPromptActivationsFlag(*command, flags->connection.embedded);
  AddKvCacheBitsFlag(*command, flags->connection.embedded);
  command->add_option("--tokens", flags->sizes.decode_tokens, "Tokens to decode")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_option("--prefill", flags->sizes.prefill_tokens, "Tokens to prefill")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_option("--batch", flags->sizes.sequences, "Measure decoding so many sequences together, too")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option("--repetitions", flags->sizes.repetitions, "Measurements of each case, after one that warms up")
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
