#include "client/cli/bench_load.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/interrupt.h"
#include "client/cli/json_output.h"
#include "client/cli/model_shapes.h"
#include "client/cli/progress.h"
#include "client/cli/terminal.h"
#include "common/status_macros.h"
#include "common/store/random_package.h"
#include "executor/device_bench.h"

namespace flexquant::cli {
namespace {

using executor::LoadBenchResult;
using executor::StepTime;

struct Flags {
  std::string model_dir;
  std::string shapes = "llama-3.2-3b";
  bool random = false;
  int64_t group_size = 64;
  int device = 0;
  int repetitions = 5;
  bool json = false;
};

// A package of random weights in a folder of its own, which dies with it.
class RandomPackage {
 public:
  RandomPackage() = default;
  RandomPackage(const RandomPackage&) = delete;
  RandomPackage& operator=(const RandomPackage&) = delete;
  ~RandomPackage() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  // Its path.
  absl::StatusOr<std::string> Write(const Flags& flags) {
    std::error_code error;
    std::string pattern = (std::filesystem::temp_directory_path(error) / "flexquant-bench.XXXXXX").string();
    if (error || mkdtemp(pattern.data()) == nullptr) {
      return absl::ErrnoToStatus(error ? error.value() : errno,
                                 absl::StrCat("cannot make a folder ", pattern, "; TMPDIR says where"));
    }
    folder_ = pattern;
    ModelConfig config = ModelShapes().at(flags.shapes);
    config.name = flags.shapes;
    config.max_context = 8192;
    std::string path = absl::StrCat(folder_, "/", flags.shapes);
    Progress progress("B");
    FQ_RETURN_IF_ERROR(WriteRandomPackage(config, flags.group_size, path, [&](uint64_t done, uint64_t total) {
      progress.Update(done, total, "writing random weights");
      return Interrupt::Check();
    }));
    return path;
  }

 private:
  std::string folder_;
};

double GigabytesPerSecond(const LoadBenchResult& result, double ms) {
  return static_cast<double>(result.store_bytes) / ms * 1e-6;
}

uint64_t PeakBytes(const LoadBenchResult& result) { return std::max(result.loading_bytes, result.ready_bytes); }

// Of the device memory that was taken at most, over what the store and the workspace have.
double PeakRatio(const LoadBenchResult& result) {
  return static_cast<double>(PeakBytes(result)) / static_cast<double>(result.store_bytes + result.workspace_bytes);
}

void PrintText(const LoadBenchResult& result) {
  const auto size = [](uint64_t bytes) { return HumanBytes(static_cast<double>(bytes)); };
  std::puts(absl::StrFormat("%s into the memory of %s", result.model, result.device).c_str());
  std::puts(absl::StrFormat("load: %s in %.1f ms (%.1f to %.1f), %.2f GB/s (%.2f to %.2f); opened in %.1f ms",
                            size(result.store_bytes), result.load.median, result.load.least, result.load.most,
                            GigabytesPerSecond(result, result.load.median),
                            GigabytesPerSecond(result, result.load.most), GigabytesPerSecond(result, result.load.least),
                            result.open.median)
                .c_str());
  std::puts(
      absl::StrFormat("device memory: %s of weights, %s of workspace; at most %s while loading, %s ready: %.3f of "
                      "store and workspace",
                      size(result.weight_bytes), size(result.workspace_bytes), size(result.loading_bytes),
                      size(result.ready_bytes), PeakRatio(result))
          .c_str());
}

void PrintAsJson(const LoadBenchResult& result) {
  const auto time = [](const StepTime& t) {
    return Json{{"median_ms", t.median}, {"least_ms", t.least}, {"most_ms", t.most}};
  };
  Json json;
  json["device"] = result.device;
  json["model"] = result.model;
  json["store_bytes"] = result.store_bytes;
  json["weight_bytes"] = result.weight_bytes;
  json["workspace_bytes"] = result.workspace_bytes;
  json["loading_bytes"] = result.loading_bytes;
  json["ready_bytes"] = result.ready_bytes;
  json["peak_of_store_and_workspace"] = PeakRatio(result);
  json["open"] = time(result.open);
  json["load"] = time(result.load);
  json["bytes_per_second"] = GigabytesPerSecond(result, result.load.median) * 1e9;
  PrintJson(json);
}

absl::Status Run(const Flags& flags) {
  RandomPackage random;
  executor::LoadBenchOptions options;
  options.device = flags.device;
  options.repetitions = flags.repetitions;
  options.package = [&]() -> absl::StatusOr<std::string> {
    if (flags.random) {
      return random.Write(flags);
    }
    return flags.model_dir;
  };
  absl::StatusOr<LoadBenchResult> result;
  {
    Progress progress("B");
    result = executor::RunLoadBench(options, [&](uint64_t done, uint64_t total) {
      progress.Update(done, total, "loading");
      return Interrupt::Check();
    });
  }
  FQ_RETURN_IF_ERROR(result.status());
  if (flags.json) {
    PrintAsJson(*result);
  } else {
    PrintText(*result);
  }
  return absl::OkStatus();
}

}  // namespace

void AddLoadBench(CLI::App& bench, RunCommand& run) {
  auto flags = std::make_shared<Flags>();
  auto* command = bench.add_subcommand("load", "How fast a package gets from the page cache into a GPU's memory");
  auto* model = command->add_option("--model", flags->model_dir, "Folder made by `flexquant convert`");
  auto* random = command
                     ->add_flag("--random", flags->random,
                                "Instead, a package of --shapes with random weights, written to TMPDIR and removed")
                     ->excludes(model);
  command
      ->add_option("--shapes", flags->shapes,
                   absl::StrCat("Model whose shapes to take: ", absl::StrJoin(ModelShapeNames(), ", ")))
      ->check(CLI::IsMember(ModelShapeNames()))
      ->needs(random)
      ->capture_default_str();
  command->add_option("--group-size", flags->group_size, "Columns that share a scale")
      ->check(CLI::IsMember({64, 128}))
      ->needs(random)
      ->capture_default_str();
  command->add_option("--gpu", flags->device, "Which GPU")->check(CLI::Range(0, 1023))->capture_default_str();
  command
      ->add_option("--repetitions", flags->repetitions,
                   "Times to load, after one that warms up the page cache and the device")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, &run] {
    if (flags->model_dir.empty() && !flags->random) {
      RequireUsage(absl::InvalidArgumentError("--model or --random is required"));
    }
    run = [flags] { return Run(*flags); };
  });
}

}  // namespace flexquant::cli
