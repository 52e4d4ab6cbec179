#include "client/cli/bench_device.h"

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/bench_replay.h"
#include "client/cli/interrupt.h"
#include "client/cli/json_output.h"
#include "client/cli/model_shapes.h"
#include "client/cli/progress.h"
#include "common/status_macros.h"
#include "executor/device_bench.h"

namespace flexquant::cli {
namespace {

using executor::DecodeResult;
using executor::DeviceBenchResult;
using executor::KernelTime;
using executor::PrefillResult;
using executor::StepTime;

// Of a package, whose context may be short: the prompt that `flexquant evaluate` reads.
constexpr int64_t kPackageContext = 32;

struct Flags {
  std::string shapes = "llama-3.1-8b";
  int device = 0;
  int64_t group_size = 64;
  std::vector<int> batches = {1};
  std::vector<int64_t> contexts = {1024};
  std::vector<int> rows = {512, 2048};
  std::vector<std::string> plans = executor::DeviceBenchPlans();
  int repetitions = 7;
  int tensor_parallel = 1;
  bool kernels = false;
  bool keep_low_columns = false;
  int fine_activations_from = kDefaultFineActivationsFrom;
  bool random = false;
  bool portable = false;
  bool json = false;
};

Json TimeJson(const StepTime& time) {
  return {{"median_ms", time.median}, {"least_ms", time.least}, {"most_ms", time.most}};
}

// us.
double AloneSum(const DecodeResult& row) {
  double sum = 0;
  for (const KernelTime& kernel : row.kernels.kernels) {
    sum += kernel.alone_us;
  }
  return sum;
}

double Bandwidth(const DecodeResult& row, const StepTime& time) {
  return (row.weight_bytes + row.kv_bytes) / time.median * 1e3;
}

Json KernelsJson(const DecodeResult& row) {
  Json json = {{"alone",
                "each launch between two events outside of the graph: no launch overlaps the next one and each has the "
                "time of an event in it, so the sum is larger than the step"},
               {"in_step", "by how much the step's graph is shorter without these launches"},
               {"event_us", row.kernels.event_us},
               {"kernels", Json::array()}};
  for (const KernelTime& kernel : row.kernels.kernels) {
    json["kernels"].push_back({{"name", kernel.name},
                               {"launches", kernel.launches},
                               {"alone_us", kernel.alone_us},
                               {"alone_share", kernel.alone_us / AloneSum(row)},
                               {"in_step_us", kernel.in_step_us},
                               {"step_share", kernel.in_step_us / (1e3 * row.graph.median)}});
    if (kernel.bytes > 0) {
      json["kernels"].back()["bytes"] = kernel.bytes;
    }
  }
  return json;
}

// What every measurement of decode steps has.
Json DecodeJson(const DecodeResult& row) {
  return {{"plan", row.plan},         {"batch", row.batch},
          {"context", row.context},   {"weight_bytes", row.weight_bytes},
          {"kv_bytes", row.kv_bytes}, {"graph", TimeJson(row.graph)}};
}

// Of steps of several ranks, which have fewer measurements.
void PrintRanks(const Flags& flags, const DeviceBenchResult& result) {
  std::puts(absl::StrFormat("%s on %s, random weights in groups of %d", flags.shapes, result.device, flags.group_size)
                .c_str());
  std::puts("decode: ms a step, median (least to most); without the sums over the ranks; their share");
  for (const DecodeResult& row : result.decode) {
    std::puts(absl::StrFormat("  batch %2d  context %6d  %-8s %7.3f (%.3f to %.3f)  %7.3f  %5.1f %%", row.batch,
                              row.context, row.plan, row.graph.median, row.graph.least, row.graph.most,
                              row.no_sums.median, 100 * (1 - row.no_sums.median / row.graph.median))
                  .c_str());
  }
}

void PrintRanksAsJson(const Flags& flags, const DeviceBenchResult& result) {
  Json json = {{"device", result.device},
               {"shapes", flags.shapes},
               {"group_size", flags.group_size},
               {"tensor_parallel", flags.tensor_parallel}};
  for (const DecodeResult& row : result.decode) {
    json["decode"].push_back(DecodeJson(row));
    json["decode"].back()["without_sums"] = TimeJson(row.no_sums);
  }
  PrintJson(json);
}

void PrintAsJson(const Flags& flags, const DeviceBenchResult& result) {
  Json json;
  json["device"] = result.device;
  json["shapes"] = flags.shapes;
  json["group_size"] = flags.group_size;
  json["read_only_bytes_per_second"] = result.read_only_bytes_per_second;
  json["copy_bytes_per_second"] = result.copy_bytes_per_second;
  for (const DecodeResult& row : result.decode) {
    Json measured = DecodeJson(row);
    measured["plan_held"] = TimeJson(row.held);
    measured["plan_changed"] = TimeJson(row.changed);
    measured["of_read_only"] = Bandwidth(row, row.graph) / result.read_only_bytes_per_second;
    measured["of_copy"] = Bandwidth(row, row.graph) / result.copy_bytes_per_second;
    if (flags.kernels) {
      measured["kernels"] = KernelsJson(row);
    }
    json["decode"].push_back(std::move(measured));
  }
  for (const PrefillResult& row : result.prefill) {
    json["prefill"].push_back(
        {{"tokens", row.rows}, {"step", TimeJson(row.step)}, {"cublas_bf16", TimeJson(row.cublas)}});
  }
  PrintJson(json);
}

void PrintKernels(const DecodeResult& row) {
  std::puts(absl::StrFormat("    %-16s %8s %10s %7s %10s %7s %9s", "kernel", "launches", "us alone", "share",
                            "us in step", "share", "MB")
                .c_str());
  const double sum = AloneSum(row);
  for (const KernelTime& kernel : row.kernels.kernels) {
    std::string line =
        absl::StrFormat("    %-16s %8d %10.1f %5.1f %% %10.1f %5.1f %%", kernel.name, kernel.launches, kernel.alone_us,
                        100 * kernel.alone_us / sum, kernel.in_step_us, 0.1 * kernel.in_step_us / row.graph.median);
    if (kernel.bytes > 0) {
      absl::StrAppendFormat(&line, " %9.1f", kernel.bytes * 1e-6);
    }
    std::puts(line.c_str());
  }
  std::puts(absl::StrFormat("    %-16s %8s %10.1f %7s %10.1f  an event takes %.2f us of each launch alone", "sum; step",
                            "", sum, "", 1e3 * row.graph.median, row.kernels.event_us)
                .c_str());
}

void PrintText(const Flags& flags, const DeviceBenchResult& result) {
  std::puts(absl::StrFormat("%s on %s, random weights in groups of %d", flags.shapes, result.device, flags.group_size)
                .c_str());
  std::puts(absl::StrFormat("memory: %.0f GB/s read-only, %.0f GB/s copied (read + written)",
                            result.read_only_bytes_per_second * 1e-9, result.copy_bytes_per_second * 1e-9)
                .c_str());
  if (!result.decode.empty()) {
    std::puts(
        "decode: ms a step, whole (head and greedy sampling too), median (least to most); share of read-only "
        "bandwidth; "
        "then with inputs copied every step, plan held / changed");
  }
  if (!result.decode.empty() && flags.kernels) {
    std::puts(
        "kernels: us a step alone = each launch between two events, so nothing overlaps and the sum is larger than the "
        "step; in step = by how much the step is shorter without these launches");
  }
  for (const DecodeResult& row : result.decode) {
    std::puts(absl::StrFormat("  batch %2d  context %6d  %-8s %7.3f (%.3f to %.3f)  %5.1f %%  %7.3f / %7.3f", row.batch,
                              row.context, row.plan, row.graph.median, row.graph.least, row.graph.most,
                              100 * Bandwidth(row, row.graph) / result.read_only_bytes_per_second, row.held.median,
                              row.changed.median)
                  .c_str());
    if (flags.kernels) {
      PrintKernels(row);
    }
  }
  if (!result.prefill.empty()) {
    std::puts("prefill: ms a chunk at 8 bits, all layers without the head; the bare bf16 cuBLAS products; ratio");
  }
  for (const PrefillResult& row : result.prefill) {
    std::puts(absl::StrFormat("  %5d tokens  %8.3f (%.3f to %.3f)  %8.3f (%.3f to %.3f)  %.2f", row.rows,
                              row.step.median, row.step.least, row.step.most, row.cublas.median, row.cublas.least,
                              row.cublas.most, row.step.median / row.cublas.median)
                  .c_str());
  }
}

executor::DeviceBenchOptions Options(const Flags& flags, bool decode) {
  executor::DeviceBenchOptions options;
  options.config = ModelShapes().at(flags.shapes);
  options.group_size = flags.group_size;
  options.device = flags.device;
  options.portable = flags.portable;
  options.batches = flags.batches;
  options.contexts = decode ? flags.contexts : std::vector<int64_t>{};
  options.prefill_rows = decode ? std::vector<int>{} : flags.rows;
  options.repetitions = flags.repetitions;
  options.plans = flags.plans;
  options.kernels = flags.kernels;
  options.tensor_parallel = flags.tensor_parallel;
  options.keep_low_columns = flags.keep_low_columns;
  options.fine_activations_from = flags.fine_activations_from;
  return options;
}

absl::Status Run(const Flags& flags, bool decode) {
  const executor::DeviceBenchOptions options = Options(flags, decode);
  Progress progress("cases");
  FQ_ASSIGN_OR_RETURN(const DeviceBenchResult result, executor::RunDeviceBench(options, [&](int done, int total) {
                        progress.Update(static_cast<uint64_t>(done), static_cast<uint64_t>(total), flags.shapes);
                        return Interrupt::Check();
                      }));
  const bool ranks = flags.tensor_parallel > 1;
  if (flags.json) {
    (ranks ? PrintRanksAsJson : PrintAsJson)(flags, result);
  } else {
    (ranks ? PrintRanks : PrintText)(flags, result);
  }
  return absl::OkStatus();
}

// Of `flags` what a replay takes; INVALID_ARGUMENT for what does not go with it.
absl::Status PrepareReplay(const CLI::App& command, const Flags& flags, ReplayFlags& replay) {
  if (!flags.random && replay.embedded.model_dir.empty()) {
    return absl::InvalidArgumentError("--schedule needs --model, the package it was recorded on, or --random");
  }
  if (flags.batches.size() != 1 || flags.contexts.size() != 1) {
    return absl::InvalidArgumentError("--schedule takes one --batch and one --context");
  }
  if (!flags.random && flags.batches[0] != 1) {
    return absl::InvalidArgumentError(absl::StrCat("--batch is ", flags.batches[0],
                                                   ": --schedule on a package runs one sequence; --random runs more"));
  }
  if (!flags.random && command.count("--fine-activations-from") > 0) {
    return absl::InvalidArgumentError(
        "--fine-activations-from is not for --schedule on a package, which says it itself; leave it out, or give "
        "--random");
  }
  replay.device = Options(flags, /*decode=*/true);
  replay.random = flags.random;
  replay.shapes = flags.shapes;
  replay.json = flags.json;
  if (!flags.random && command.count("--context") == 0) {
    replay.device.contexts = {kPackageContext};
  }
  return absl::OkStatus();
}

CLI::App* AddCommon(CLI::App& bench, const std::string& name, const std::string& about, Flags& flags) {
  auto* command = bench.add_subcommand(name, about);
  command
      ->add_option("--shapes", flags.shapes,
                   absl::StrCat("Model whose shapes to take: ", absl::StrJoin(ModelShapeNames(), ", ")))
      ->check(CLI::IsMember(ModelShapeNames()))
      ->capture_default_str();
  command->add_flag("--random", flags.random, "Weights that the device makes, no file (the only kind here)");
  command->add_option("--gpu", flags.device, "Which GPU")->check(CLI::Range(0, 1023))->capture_default_str();
  command->add_option("--group-size", flags.group_size, "Columns that share a scale")
      ->check(CLI::IsMember({64, 128}))
      ->capture_default_str();
  command
      ->add_option("--repetitions", flags.repetitions,
                   "Measurements of each case, of 10 steps, after one that warms up")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_flag("--portable", flags.portable, "The kernels for sm_80 and up even where Hopper's would run");
  command->add_flag("--json", flags.json, "Print JSON");
  return command;
}

}  // namespace

void AddDeviceBench(CLI::App& bench, RunCommand& run) {
  auto decode_flags = std::make_shared<Flags>();
  auto* decode = AddCommon(
      bench, "decode", "Whole decode steps of a model's shapes on a GPU; with --schedule, a policy's steps on a model",
      *decode_flags);
  decode->add_option("--batch", decode_flags->batches, "Sequences of a step; several with commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  decode
      ->add_option("--context", decode_flags->contexts,
                   "Tokens in each sequence's cache; several with commas. --schedule on a package: of the prompt, 32 "
                   "if not given")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  decode
      ->add_option("--plan", decode_flags->plans,
                   "Widths: 3 to 8 everywhere, mixed = random ones for the layer groups, isolated = and for each "
                   "sequence; several with commas")
      ->delimiter(',')
      ->check(CLI::IsMember(executor::DeviceBenchPlans()))
      ->capture_default_str();
  decode
      ->add_option("--tensor-parallel", decode_flags->tensor_parallel,
                   "Cut the model among so many GPUs, from --gpu on; measures the step with and without the sums")
      ->check(CLI::Range(1, 8))
      ->capture_default_str();
  decode->add_flag("--kernels", decode_flags->kernels, "Time every kernel of the step, too");
  decode->add_flag("--keep-low-columns", decode_flags->keep_low_columns,
                   "Compute two columns a row, for 15-bit activations, also where no row's width takes them");
  decode
      ->add_option("--fine-activations-from", decode_flags->fine_activations_from,
                   "Precision from which on activations have 15 bits, as converted packages have it: 6 or 8")
      ->check(CLI::IsMember(kFineActivationsFrom))
      ->capture_default_str();
  for (const char* name : {"--kernels", "--portable"}) {
    decode->get_option("--tensor-parallel")->excludes(decode->get_option(name));
  }
  auto replay_flags = std::make_shared<ReplayFlags>();
  AddReplayFlags(*decode, *replay_flags);
  for (const char* name : {"--plan", "--kernels", "--tensor-parallel"}) {
    decode->get_option("--schedule")->excludes(decode->get_option(name));
  }
  decode->callback([decode, decode_flags, replay_flags, &run] {
    if (replay_flags->schedule.empty()) {
      run = [decode_flags] { return Run(*decode_flags, /*decode=*/true); };
      return;
    }
    RequireUsage(PrepareReplay(*decode, *decode_flags, *replay_flags));
    run = [replay_flags] { return RunReplay(*replay_flags); };
  });

  auto prefill_flags = std::make_shared<Flags>();
  auto* prefill = AddCommon(bench, "prefill", "Prefill of a model's shapes on a GPU", *prefill_flags);
  prefill->add_option("--tokens", prefill_flags->rows, "Tokens of a chunk; several with commas")
      ->delimiter(',')
      ->check(CLI::Range(2, 65536))
      ->capture_default_str();
  prefill->callback([prefill_flags, &run] { run = [prefill_flags] { return Run(*prefill_flags, /*decode=*/false); }; });
}

}  // namespace flexquant::cli
