// flexquant_simulate: how a fleet of executors behind one controller serves a trace, without the fleet.
//
//   flexquant_simulate --model PACKAGE --measure HOST:PORT > cost.json      from an executor without a controller
//   flexquant_simulate --model PACKAGE --cost cost.json --executors 100 --trace TRACE.csv --requests 100000 --rate 200
//
// The controller's own queue, balancer, batches and policies run on a simulated clock; steps take what the cost model
// says. Prints JSON.

#include <cstdio>
#include <string>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "common/status_macros.h"
#include "controller/model_package.h"
#include "tools/simulate/measure.h"
#include "tools/simulate/simulation.h"
#include "tools/simulate/simulation_report.h"

namespace flexquant::simulate {
namespace {

using Json = nlohmann::ordered_json;

struct Flags {
  std::string model;
  std::string measure;
  std::string cost;
  std::string trace;
  size_t executors = 1;
  size_t slow_executors = 0;
  double slow_factor = 2;
  ExecutorSpec executor;
  uint32_t kv_tokens = 65'536;
  uint32_t prompt_tokens = 128;
  uint32_t answer_tokens = 64;
  uint32_t bits = 0;
  double max_mean_kl = 0;
  double round_trip_ms = 0.2;
  bool each_executor = false;
  Arrivals arrivals;
  SimulationOptions options;
  GoodAnswer good;
};

absl::StatusOr<Json> Measure(const controller::ModelPackage& model, const std::string& address) {
  FQ_ASSIGN_OR_RETURN(const std::vector<MeasuredStep> steps, MeasureExecutor(model, address));
  FQ_ASSIGN_OR_RETURN(const CostModel cost, FitCostModel(steps));
  Json json = Json::parse(ToJson(cost));
  json["measured_at"] = address;
  json["steps"] = steps.size();
  json["median_error"] = MedianError(cost, steps);
  return json;
}

absl::StatusOr<Json> RunSimulation(Flags flags, const controller::ModelPackage& model) {
  FQ_ASSIGN_OR_RETURN(flags.executor.cost, ReadCostModel(flags.cost));
  flags.executor.kv_blocks = std::max(flags.kv_tokens / flags.executor.kv_block_tokens, 1U);
  flags.options.executors.assign(flags.executors, flags.executor);
  for (size_t i = 0; i < std::min(flags.slow_executors, flags.executors); ++i) {
    CostModel& cost = flags.options.executors[i].cost;
    for (double* term : {&cost.fixed_ms, &cost.sequence_ms, &cost.sequence_bit_ms, &cost.prompt_token_ms}) {
      *term *= flags.slow_factor;
    }
  }
  if (flags.trace.empty()) {
    const double rate = flags.arrivals.rate > 0 ? flags.arrivals.rate : 1;
    flags.arrivals.trace =
        cli::PoissonTrace(flags.arrivals.requests, rate, flags.prompt_tokens, flags.answer_tokens, flags.arrivals.seed);
  } else {
    FQ_ASSIGN_OR_RETURN(flags.arrivals.trace, cli::ReadTrace(flags.trace, flags.arrivals.requests));
  }
  flags.options.round_trip = absl::Milliseconds(flags.round_trip_ms);
  flags.options.worker.step_timeout = absl::InfiniteDuration();
  flags.options.worker.groups = model.layer_groups.get();
  if (flags.bits > 0) {
    flags.options.policy.set_fixed_bits(flags.bits);
  } else if (flags.max_mean_kl > 0) {
    flags.options.policy.set_max_mean_kl(flags.max_mean_kl);
  }
  FQ_ASSIGN_OR_RETURN(const SimulationResult result, Simulate(model, flags.options, flags.arrivals));
  return ReportOf(result, flags.good, flags.each_executor);
}

absl::Status Run(const Flags& flags) {
  FQ_ASSIGN_OR_RETURN(const controller::ModelPackage model, controller::LoadModelPackage(flags.model));
  FQ_ASSIGN_OR_RETURN(const Json json,
                      flags.measure.empty() ? RunSimulation(flags, model) : Measure(model, flags.measure));
  std::printf("%s\n", json.dump(2).c_str());
  return absl::OkStatus();
}

void AddFleetFlags(CLI::App& app, Flags& flags) {
  app.add_option("--executors", flags.executors, "How many")
      ->check(CLI::Range(size_t{1}, size_t{10'000}))
      ->capture_default_str();
  app.add_option("--slow", flags.slow_executors, "So many of them are slower");
  app.add_option("--slow-factor", flags.slow_factor, "By this factor")
      ->check(CLI::Range(1e-3, 1e3))
      ->capture_default_str();
  app.add_option("--kv-tokens", flags.kv_tokens, "Positions in each one's KV cache")
      ->check(CLI::Range(16U, 1U << 30U))
      ->capture_default_str();
  app.add_option("--max-sequences", flags.executor.max_sequences, "Most sequences in a step")
      ->check(CLI::Range(1U, 4096U))
      ->capture_default_str();
  app.add_option("--max-step-tokens", flags.executor.max_step_tokens, "Most tokens in a step")
      ->check(CLI::Range(1U, 1U << 20U))
      ->capture_default_str();
  app.add_option("--prefill-chunk", flags.options.worker.prefill_chunk_tokens, "Most prompt tokens in a step")
      ->check(CLI::Range(1U, 1U << 20U))
      ->capture_default_str();
  app.add_option("--max-queued", flags.options.queue.max_requests, "Requests that may wait")
      ->check(CLI::Range(1U, 1U << 30U))
      ->capture_default_str();
  app.add_option("--round-trip-ms", flags.round_trip_ms, "Of a message to an executor and back")
      ->check(CLI::Range(0.0, 1e4))
      ->capture_default_str();
  auto* bits = app.add_option("--precision", flags.bits, "Bits of every token; default: the model's default policy")
                   ->check(CLI::Range(3U, 8U));
  app.add_option("--max-mean-kl", flags.max_mean_kl, "Policy max_mean_kl of a calibrated package")
      ->check(CLI::Range(0.0, 1e3))
      ->excludes(bits);
}

void AddTraceFlags(CLI::App& app, Flags& flags) {
  Arrivals& arrivals = flags.arrivals;
  app.add_option("--trace", flags.trace, "Azure's CSV or Mooncake's .jsonl; without one, a Poisson process");
  app.add_option("--requests", arrivals.requests, "A shorter trace is played again and again")
      ->check(CLI::Range(size_t{1}, size_t{10'000'000}))
      ->capture_default_str();
  app.add_option("--time-scale", arrivals.time_scale, "Arrivals come so many times later")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--rate", arrivals.rate, "Requests a second on average, in place of --time-scale")
      ->check(CLI::Range(0.0, 1e6));
  app.add_option("--prompt-tokens", flags.prompt_tokens, "Without a trace")
      ->check(CLI::Range(1U, 1U << 20U))
      ->capture_default_str();
  app.add_option("--answer-tokens", flags.answer_tokens, "Without a trace")
      ->check(CLI::Range(1U, 1U << 20U))
      ->capture_default_str();
  app.add_option("--token-scale", arrivals.token_scale, "Share of the trace's tokens")
      ->check(CLI::Range(1e-6, 1e3))
      ->capture_default_str();
  app.add_option("--max-prompt-tokens", arrivals.max_prompt_tokens, "Longer prompts are cut")
      ->check(CLI::Range(1U, 1U << 20U))
      ->capture_default_str();
  app.add_option("--max-answer-tokens", arrivals.max_answer_tokens, "Longer answers are cut")
      ->check(CLI::Range(1U, 1U << 20U))
      ->capture_default_str();
  app.add_option("--load-seed", arrivals.seed, "Seed of prompts and arrivals")->capture_default_str();
  app.add_option("--max-ttft-ms", flags.good.max_ttft_ms, "Good answers begin within so long; 0 = whenever")
      ->check(CLI::Range(0.0, 1e9));
  app.add_option("--max-tpot-ms", flags.good.max_tpot_ms, "Good answers have a mean time a token of so long; 0 = any")
      ->check(CLI::Range(0.0, 1e9));
}

}  // namespace
}  // namespace flexquant::simulate

int main(int argc, char** argv) {
  CLI::App app("Simulates a controller and its executors under a trace of requests, or measures an executor for that");
  flexquant::simulate::Flags flags;
  app.add_option("--model", flags.model, "Package, whose tokenizer and policies the controller uses")->required();
  auto* cost = app.add_option("--cost", flags.cost, "JSON: fixed_ms, sequence_ms, sequence_bit_ms, prompt_token_ms");
  auto* measure =
      app.add_option("--measure", flags.measure, "HOST:PORT of an executor without a controller: print its cost model");
  cost->excludes(measure);
  app.add_flag("--each-executor", flags.each_executor, "List the executors in the output");
  AddFleetFlags(app, flags);
  AddTraceFlags(app, flags);
  CLI11_PARSE(app, argc, argv);
  if (flags.cost.empty() && flags.measure.empty()) {
    std::fprintf(stderr, "flexquant_simulate: give --cost FILE or --measure HOST:PORT\n");
    return 2;
  }
  const absl::Status status = flexquant::simulate::Run(flags);
  if (!status.ok()) {
    std::fprintf(stderr, "flexquant_simulate: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return 0;
}
