// Holds the simulation against reality: flexquant_simulate_check MODEL TRACE.csv [REQUESTS].
//
// A real controller with one to four executors whose steps really take the time that a cost model says, over in-process
// channels, plays a trace; the simulation plays the same. Prints both, and fails if they differ by more than 10 %. The
// executors sleep, so that this works on a machine with few processors; it should have nothing else to do.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "client/cli/load/load_run.h"
#include "client/cli/load/trace.h"
#include "client/cpp/client.h"
#include "controller/model_package.h"
#include "controller/server.h"
#include "spdlog/spdlog.h"
#include "tests/controller/bench/null_executor.h"
#include "tools/simulate/simulation.h"
#include "tools/simulate/simulation_report.h"

namespace flexquant::simulate {
namespace {

constexpr double kMostError = 0.10;
constexpr uint32_t kMaxSequences = 16;
constexpr uint32_t kMaxPrompt = 256;
constexpr uint32_t kMaxAnswer = 64;
constexpr double kSecondsPerRequest = 0.35;  // of one executor

CostModel CostOf(size_t executor) {
  const double factor = executor == 3 ? 2 : 1;  // the fourth one is slower
  return {.fixed_ms = 12 * factor, .sequence_ms = 0.8 * factor, .prompt_token_ms = 0.3 * factor};
}

std::chrono::nanoseconds TimeOf(const CostModel& cost, const executor::v1::StepRequest& step) {
  StepShape shape;
  for (const auto& part : step.sequences()) {
    shape.sequences += part.token_ids().empty() ? 1 : 0;
    shape.prompt_tokens += part.token_ids_size();
  }
  return absl::ToChronoNanoseconds(cost.Time(shape));
}

struct Figures {
  double ttft_p50 = 0;
  double ttft_p90 = 0;
  double tpot_p50 = 0;
  double tpot_p90 = 0;
  double tokens_per_second = 0;
};

Figures FiguresOf(const std::vector<float>& ttft, const std::vector<float>& tpot, double tokens_per_second) {
  const auto first = PercentilesOf(ttft);
  const auto later = PercentilesOf(tpot);
  return {first["p50"], first["p90"], later["p50"], later["p90"], tokens_per_second};
}

absl::StatusOr<Figures> RunReal(const std::string& folder, const controller::ModelPackage& model, size_t executors,
                                const std::vector<cli::TraceRequest>& trace, double time_scale) {
  std::vector<std::unique_ptr<controller::NullExecutor>> fleet;
  controller::ControllerOptions options;
  options.model_dir = folder;
  options.audit_rate = 0;
  for (size_t i = 0; i < executors; ++i) {
    fleet.push_back(controller::NullExecutor::Start(
        model.revision, model.layer_groups->count(), kMaxSequences,
        [cost = CostOf(i)](const executor::v1::StepRequest& step) { return TimeOf(cost, step); }));
    options.executors.push_back({"executor-" + std::to_string(i), fleet.back()->channel()});
  }
  auto server = controller::ControllerServer::Create(options);
  if (!server.ok()) {
    return server.status();
  }
  const client::Client client((*server)->InProcessChannel(), "controller");
  // Not only the first one.
  for (size_t ready = 0; ready < executors;) {
    const auto info = client.GetServerInfo();
    ready = 0;
    for (int i = 0; info.ok() && i < info->executors_size(); ++i) {
      ready += info->executors(i).ready() ? 1 : 0;
    }
  }
  cli::LoadOptions load;
  load.request.mutable_precision()->set_fixed_bits(4);
  load.time_scale = time_scale;
  load.max_prompt_tokens = kMaxPrompt;
  load.max_answer_tokens = kMaxAnswer;
  load.vocab_size = model.tokenizer->vocab_size();
  std::vector<cli::LoadResult> results;
  if (const absl::Status played = cli::PlayTrace(
          client, trace, load, [](size_t) {}, &results);
      !played.ok()) {
    return played;
  }
  std::vector<float> ttft;
  std::vector<float> tpot;
  double tokens = 0;
  absl::Duration end;
  for (const cli::LoadResult& result : results) {
    if (!result.status.ok()) {
      return result.status;
    }
    tokens += static_cast<double>(result.token_ids.size());
    end = std::max(end, result.end);
    ttft.push_back(static_cast<float>(absl::ToDoubleMilliseconds(result.time_to_first_token)));
    tpot.push_back(result.token_ids.size() < 2
                       ? -1.0F
                       : static_cast<float>(absl::ToDoubleMilliseconds(result.time_per_output_token)));
  }
  return FiguresOf(ttft, tpot, tokens / absl::ToDoubleSeconds(end));
}

absl::StatusOr<Figures> RunSimulated(const controller::ModelPackage& model, size_t executors,
                                     const std::vector<cli::TraceRequest>& trace, double time_scale) {
  SimulationOptions options;
  for (size_t i = 0; i < executors; ++i) {
    ExecutorSpec& executor = options.executors.emplace_back();
    executor.cost = CostOf(i);
    executor.kv_blocks = 1U << 20U;
    executor.max_sequences = kMaxSequences;
  }
  options.policy.set_fixed_bits(4);
  Arrivals arrivals;
  arrivals.trace = trace;
  arrivals.requests = trace.size();
  arrivals.time_scale = time_scale;
  arrivals.max_prompt_tokens = kMaxPrompt;
  arrivals.max_answer_tokens = kMaxAnswer;
  const auto result = Simulate(model, options, arrivals);
  if (!result.ok()) {
    return result.status();
  }
  return FiguresOf(result->ttft_ms, result->tpot_ms, static_cast<double>(result->tokens) / result->seconds);
}

// The largest error.
double Compare(size_t executors, const Figures& real, const Figures& simulated) {
  double largest = 0;
  const auto line = [&](const char* name, double measured, double predicted) {
    const double error = predicted / measured - 1;
    largest = std::max(largest, std::abs(error));
    std::printf("%zu  %-24s %10.2f %10.2f %+7.1f %%\n", executors, name, measured, predicted, 100 * error);
  };
  line("time to first token p50", real.ttft_p50, simulated.ttft_p50);
  line("time to first token p90", real.ttft_p90, simulated.ttft_p90);
  line("time a token p50", real.tpot_p50, simulated.tpot_p50);
  line("time a token p90", real.tpot_p90, simulated.tpot_p90);
  line("tokens a second", real.tokens_per_second, simulated.tokens_per_second);
  std::fflush(stdout);
  return largest;
}

int Run(const std::string& folder, const std::string& trace_file, size_t requests) {
  spdlog::set_level(spdlog::level::warn);
  const auto model = controller::LoadModelPackage(folder);
  double largest = 0;
  std::printf("executors, figure (ms)           measured  simulated   error\n");
  for (size_t executors = 1; executors <= 4; ++executors) {
    const auto trace = cli::ReadTrace(trace_file, requests * executors);
    if (!model.ok() || !trace.ok()) {
      std::fprintf(stderr, "%s %s\n", model.status().ToString().c_str(), trace.status().ToString().c_str());
      return 2;
    }
    // As much load for each executor, whatever the trace's own rate is.
    const double seconds = absl::ToDoubleSeconds(trace->back().arrival);
    const double scale = static_cast<double>(requests) * kSecondsPerRequest / seconds;
    const auto real = RunReal(folder, *model, executors, *trace, scale);
    const auto simulated = RunSimulated(*model, executors, *trace, scale);
    if (!real.ok() || !simulated.ok()) {
      std::fprintf(stderr, "%s %s\n", real.status().ToString().c_str(), simulated.status().ToString().c_str());
      return 2;
    }
    largest = std::max(largest, Compare(executors, *real, *simulated));
  }
  std::printf("largest error %.1f %%, %.0f %% allowed\n", 100 * largest, 100 * kMostError);
  return largest <= kMostError ? 0 : 1;
}

}  // namespace
}  // namespace flexquant::simulate

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "flexquant_simulate_check MODEL TRACE.csv [REQUESTS for each executor, 100]\n");
    return 2;
  }
  return flexquant::simulate::Run(argv[1], argv[2], argc == 4 ? std::strtoul(argv[3], nullptr, 10) : 100);
}
