#include "client/cli/bench_replay.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/cli/interrupt.h"
#include "client/cli/json_output.h"
#include "client/cli/machine.h"
#include "client/cli/plan_schedule.h"
#include "client/cli/policy_cases.h"
#include "client/cli/progress.h"
#include "client/cli/stats.h"
#include "common/status_macros.h"
#include "controller/layer_groups.h"
#include "controller/policy/policy_context.h"
#include "executor/decode_stepper.h"
#include "executor/runner_factory.h"

namespace flexquant::cli {
namespace {

constexpr char kGroup[] = "Schedule";

// The policy that the schedule was recorded of, to run again beside the steps.
struct ReplayPolicy {
  std::unique_ptr<controller::LayerGroups> groups;  // which the policies of `made` need
  PolicyCase made;                                  // `make` is null if there is none
  std::string why_not;
};

struct Totals {
  std::vector<double> dynamic_ms;  // a token, [repetitions]
  std::vector<double> static_ms;
  absl::Duration choosing;  // of all choices
  uint64_t choices = 0;
  uint64_t as_recorded = 0;  // of the choices
};

// Chooses the plans of one window again, from the signals that were recorded. The signals of the prompt were not, so
// choices may differ from those recorded, which are what is run.
class Chooser {
 public:
  Chooser(const WindowOutcome& window, int lookahead, Totals& totals)
      : window_(window), lookahead_(static_cast<size_t>(lookahead)), totals_(totals) {}

  absl::Status Begin(const ReplayPolicy& policy, size_t window) {
    if (policy.made.make != nullptr) {
      FQ_ASSIGN_OR_RETURN(policy_, policy.made.make(window));
    }
    return absl::OkStatus();
  }

  void Choose(size_t token) {
    if (policy_ == nullptr) {
      return;
    }
    const absl::Time begin = absl::Now();
    for (; observed_ + lookahead_ < token; ++observed_) {
      policy_->Observe(window_.signals[observed_]);
    }
    const PrecisionPlan& plan = policy_->Next(static_cast<uint32_t>(token + 1));
    policy_->Charge(plan);
    totals_.choosing += absl::Now() - begin;
    ++totals_.choices;
    totals_.as_recorded += plan == window_.plans[token] ? 1 : 0;
  }

 private:
  const WindowOutcome& window_;
  const size_t lookahead_;
  Totals& totals_;
  std::unique_ptr<controller::PrecisionPolicy> policy_;
  size_t observed_ = 0;
};

class Replay {
 public:
  Replay(const PlanSchedule& schedule, const ReplayPolicy& policy, int lookahead, int repetitions,
         executor::DecodeStepper& stepper)
      : schedule_(schedule), policy_(policy), lookahead_(lookahead), repetitions_(repetitions), stepper_(stepper) {}

  // `plans` [windows][tokens] are those of the schedule for the model that runs.
  absl::StatusOr<Totals> Run(const std::vector<std::vector<PrecisionPlan>>& plans) {
    const PrecisionPlan top = PrecisionPlan::Uniform(kTopPrecision, static_cast<int>(plans[0][0].bits.size()));
    const auto windows = schedule_.windows.size();
    const auto rounds = static_cast<uint64_t>(repetitions_) + 1;
    Progress progress("windows");
    // Window by window in turns, and each first as often, so that a change of the machine's speed hits both alike. The
    // first round warms up.
    for (uint64_t round = 0; round < rounds; ++round) {
      absl::Duration dynamic;
      absl::Duration fixed;
      if (round == 1) {
        totals_ = {};
      }
      for (size_t w = 0; w < windows; ++w) {
        progress.Update(round * windows + w, rounds * windows, schedule_.policy);
        const bool dynamic_first = (round + w) % 2 == 0;
        for (const bool run_dynamic : {dynamic_first, !dynamic_first}) {
          if (run_dynamic) {
            FQ_RETURN_IF_ERROR(RunWindow(
                w, [&](size_t i) -> const PrecisionPlan& { return plans[w][i]; }, true, dynamic));
          } else {
            FQ_RETURN_IF_ERROR(RunWindow(
                w, [&](size_t) -> const PrecisionPlan& { return top; }, false, fixed));
          }
        }
      }
      if (round > 0) {
        const auto tokens = static_cast<double>(schedule_.NumTokens());
        totals_.dynamic_ms.push_back(absl::ToDoubleMilliseconds(dynamic) / tokens);
        totals_.static_ms.push_back(absl::ToDoubleMilliseconds(fixed) / tokens);
      }
    }
    return std::move(totals_);
  }

 private:
  // Adds what the window's steps took to `time`, with the choices of the policy if there are any: while a step runs
  // with lookahead 1, behind it with 0.
  absl::Status RunWindow(size_t w, const std::function<const PrecisionPlan&(size_t)>& plan_of, bool chooses,
                         absl::Duration& time) {
    FQ_RETURN_IF_ERROR(Interrupt::Check());
    const WindowOutcome& window = schedule_.windows[w];
    Chooser chooser(window, lookahead_, totals_);
    if (chooses) {
      FQ_RETURN_IF_ERROR(chooser.Begin(policy_, w));
    }
    const size_t tokens = window.plans.size();
    const absl::Time begin = absl::Now();
    chooser.Choose(0);
    for (size_t i = 0; i < tokens; ++i) {
      FQ_RETURN_IF_ERROR(stepper_.Start(static_cast<int64_t>(i), plan_of(i)));
      if (lookahead_ > 0 && i + 1 < tokens) {
        chooser.Choose(i + 1);
      }
      FQ_RETURN_IF_ERROR(stepper_.Finish());
      if (lookahead_ == 0 && i + 1 < tokens) {
        chooser.Choose(i + 1);
      }
    }
    time += absl::Now() - begin;
    return absl::OkStatus();
  }

  const PlanSchedule& schedule_;
  const ReplayPolicy& policy_;
  const int lookahead_;
  const int repetitions_;
  executor::DecodeStepper& stepper_;
  Totals totals_;
};

// What was replayed on what, with the numbers that need no clock.
struct Subject {
  std::string model;
  std::string device;
  int layers = 0;           // of the model that runs
  int recorded_layers = 0;  // of the model that the schedule is of
  int64_t context = 0;
  int batch = 1;
  double bytes = 0;  // a step, of weights
  double static_bytes = 0;

  double MeanBits() const { return kTopPrecision * bytes / static_bytes; }
};

absl::StatusOr<ReplayPolicy> MakeReplayPolicy(const ReplayFlags& flags, const ModelStore* store,
                                              const PlanSchedule& schedule) {
  ReplayPolicy policy;
  if (store == nullptr) {
    policy.why_not = "--model, the package that the schedule was recorded on, is not given";
    return policy;
  }
  if (absl::StrContains(schedule.policy, kShuffledSuffix) || absl::StrContains(schedule.policy, kRandomSuffix) ||
      absl::StartsWith(schedule.policy, "oracle")) {
    policy.why_not = absl::StrCat("'", schedule.policy, "' is a control, which no controller serves");
    return policy;
  }
  if (store->num_layer_groups() != schedule.num_layer_groups) {
    return absl::InvalidArgumentError(
        absl::StrCat("the schedule is of a model with ", schedule.num_layer_groups, " layer groups, ", store->folder(),
                     " has ", store->num_layer_groups(), "; give the package that it was recorded on, or --random"));
  }
  FQ_ASSIGN_OR_RETURN(const auto calibration, store->ReadCalibration());
  policy.groups = std::make_unique<controller::LayerGroups>(store->config(), store->group_size(), Dtype::kBF16,
                                                            store->fine_activations_from());
  PolicyFlags parameters;
  parameters.lookahead = flags.embedded.lookahead;
  auto made = MakePolicyCase(
      parameters, schedule.policy,
      controller::MakePolicyContext(*policy.groups, /*has_reference=*/false, calibration, flags.embedded.lookahead));
  if (!made.ok()) {
    policy.why_not = std::string(made.status().message());
  } else {
    policy.made = *std::move(made);
  }
  return policy;
}

std::vector<std::vector<PrecisionPlan>> PlansFor(const PlanSchedule& schedule, const controller::LayerGroups& groups,
                                                 Subject& subject) {
  std::vector<std::vector<PrecisionPlan>> plans;
  for (const WindowOutcome& window : schedule.windows) {
    plans.emplace_back();
    for (const PrecisionPlan& plan : window.plans) {
      plans.back().push_back(subject.layers == subject.recorded_layers ? plan : plan.Stretched(subject.layers));
      subject.bytes += static_cast<double>(groups.BytesRead(plans.back().back()));
    }
  }
  subject.bytes /= static_cast<double>(schedule.NumTokens());
  subject.static_bytes = static_cast<double>(groups.BytesRead(PrecisionPlan::Uniform(kTopPrecision, groups.count())));
  return plans;
}

std::string ControllerLine(const ReplayFlags& flags, const ReplayPolicy& policy, const Totals& totals) {
  if (policy.made.make == nullptr) {
    return absl::StrCat("the controller's choice is not included: ", policy.why_not);
  }
  return absl::StrFormat("the policy's choice is included: %.2f us a token, %s",
                         absl::ToDoubleMicroseconds(totals.choosing) / static_cast<double>(totals.choices),
                         flags.embedded.lookahead == 0 ? "between steps"
                         : flags.random                ? "while the GPU works"
                                                       : "in turn with the steps");
}

std::string MappingLine(const Subject& subject) {
  return absl::StrFormat(
      "recorded on %d layers, run on %d: layer l has the widths of layer round(l * %d / %d), kind by kind",
      subject.recorded_layers, subject.layers, subject.recorded_layers - 1, std::max(1, subject.layers - 1));
}

std::vector<double> SpeedUps(const Totals& totals) {
  std::vector<double> ratios;
  for (size_t i = 0; i < totals.dynamic_ms.size(); ++i) {
    ratios.push_back(totals.static_ms[i] / totals.dynamic_ms[i]);
  }
  return ratios;
}

void PrintText(const ReplayFlags& flags, const PlanSchedule& schedule, const Subject& subject,
               const ReplayPolicy& policy, const Totals& totals) {
  std::printf("%s\n", MachineLine().c_str());
  std::puts(
      absl::StrFormat("%s on %s, batch %d, context %d; %s of %s: %d tokens in %d windows, mean KL recorded %.5f nats",
                      subject.model, subject.device, subject.batch, subject.context, schedule.policy, flags.schedule,
                      schedule.NumTokens(), schedule.windows.size(), schedule.MeanKl())
          .c_str());
  if (subject.layers != subject.recorded_layers) {
    std::puts(MappingLine(subject).c_str());
  }
  std::puts(absl::StrFormat("%d repetitions in turns, median (least to most)", flags.device.repetitions).c_str());
  const auto line = [](const std::string& name, const std::vector<double>& ms, double bits, double bytes) {
    const Spread time = Summarize(ms);
    std::puts(absl::StrFormat("  %-10s %8.3f ms/token (%.3f to %.3f)  %.3f bits*  %.1f MB of weights", name,
                              time.median, time.min, time.max, bits, bytes * 1e-6)
                  .c_str());
  };
  line("dynamic", totals.dynamic_ms, subject.MeanBits(), subject.bytes);
  line(absl::StrCat("static ", kTopPrecision), totals.static_ms, kTopPrecision, subject.static_bytes);
  const Spread speed_up = Summarize(SpeedUps(totals));
  std::puts(absl::StrFormat("  speed-up   %8.3f (%.3f to %.3f); by bytes alone %.3f", speed_up.median, speed_up.min,
                            speed_up.max, subject.static_bytes / subject.bytes)
                .c_str());
  std::puts(ControllerLine(flags, policy, totals).c_str());
  std::printf("* bytes read, as a share of those at %d bits, times %d\n", kTopPrecision, kTopPrecision);
}

Json SpreadJson(const std::vector<double>& values) {
  const Spread spread = Summarize(values);
  return {{"median", spread.median}, {"min", spread.min}, {"max", spread.max}};
}

void PrintAsJson(const ReplayFlags& flags, const PlanSchedule& schedule, const Subject& subject,
                 const ReplayPolicy& policy, const Totals& totals) {
  Json json;
  json["machine"] = MachineLine();
  json["model"] = subject.model;
  json["device"] = subject.device;
  json["batch"] = subject.batch;
  json["context"] = subject.context;
  json["schedule"] = {{"file", flags.schedule},         {"policy", schedule.policy},
                      {"tokens", schedule.NumTokens()}, {"windows", schedule.windows.size()},
                      {"kl_mean", schedule.MeanKl()},   {"layers", subject.recorded_layers}};
  if (subject.layers != subject.recorded_layers) {
    json["schedule"]["mapping"] = MappingLine(subject);
  }
  json["repetitions"] = flags.device.repetitions;
  json["dynamic"] = {{"ms_per_token", SpreadJson(totals.dynamic_ms)},
                     {"mean_bits", subject.MeanBits()},
                     {"weight_bytes_per_token", subject.bytes}};
  json["static"] = {{"ms_per_token", SpreadJson(totals.static_ms)},
                    {"mean_bits", kTopPrecision},
                    {"weight_bytes_per_token", subject.static_bytes}};
  json["speed_up"] = SpreadJson(SpeedUps(totals));
  json["speed_up_by_bytes"] = subject.static_bytes / subject.bytes;
  json["controller"] = {{"included", policy.made.make != nullptr}, {"note", ControllerLine(flags, policy, totals)}};
  if (totals.choices > 0) {
    const auto choices = static_cast<double>(totals.choices);
    json["controller"]["lookahead"] = flags.embedded.lookahead;
    json["controller"]["us_per_token"] = absl::ToDoubleMicroseconds(totals.choosing) / choices;
    json["controller"]["choices_as_recorded"] = static_cast<double>(totals.as_recorded) / choices;
  }
  PrintJson(json);
}

}  // namespace

void AddReplayFlags(CLI::App& decode, ReplayFlags& flags) {
  auto* schedule =
      decode
          .add_option(
              "--schedule", flags.schedule,
              "measured.jsonl of `flexquant evaluate --report`: replay a policy's plans, token by token, against "
              "8 bits everywhere; on --model, or with --random on a GPU with other shapes, layer l of L taking "
              "the widths at the same depth")
          ->check(CLI::ExistingFile);
  decode.add_option("--schedule-policy", flags.policy, "Policy of the schedule, as the report names it")
      ->needs(schedule)
      ->capture_default_str();
  decode.add_option("--schedule-tokens", flags.tokens, "Only so many tokens of the schedule; 0 = all")
      ->needs(schedule)
      ->capture_default_str();
  decode
      .add_option("--model", flags.embedded.model_dir,
                  "Folder made by `flexquant convert` that the schedule was recorded on; with --random only its policy "
                  "is run, beside the steps")
      ->needs(schedule);
  AddEmbeddedFlags(decode, flags.embedded);
  AddKvCacheBitsFlag(decode, flags.embedded);
  for (const char* name : {"--device", "--threads", "--isa", "--no-rescoring", "--mapped-weights", "--lookahead",
                           "--kv-cache-gb", "--kv-cache-bits", "--log-level"}) {
    decode.get_option(name)->needs(schedule);
  }
  for (CLI::Option* option : decode.get_options()) {
    if (option->get_needs().contains(schedule) || option == schedule) {
      option->group(kGroup);
    }
  }
}

absl::Status RunReplay(const ReplayFlags& flags) {
  ConfigureLog(flags.embedded.log_level);
  FQ_ASSIGN_OR_RETURN(PlanSchedule schedule, ReadPlanSchedule(flags.schedule, flags.policy));
  if (flags.tokens > 0) {
    schedule.Shorten(flags.tokens);
  }
  std::unique_ptr<ModelStore> store;
  if (!flags.embedded.model_dir.empty()) {
    FQ_ASSIGN_OR_RETURN(store, ModelStore::Open(flags.embedded.model_dir));
  }
  FQ_ASSIGN_OR_RETURN(const ReplayPolicy policy, MakeReplayPolicy(flags, store.get(), schedule));

  Subject subject;
  subject.recorded_layers = schedule.num_layer_groups / kLayerGroupsPerBlock;
  subject.context = flags.device.contexts[0];
  subject.batch = flags.device.batches[0];
  const ModelConfig& config = flags.random ? flags.device.config : store->config();
  subject.layers = static_cast<int>(config.num_layers);
  subject.model = flags.random ? absl::StrCat(flags.shapes, " (random weights)") : store->model_name();
  const controller::LayerGroups groups(config, flags.random ? flags.device.group_size : store->group_size(),
                                       Dtype::kBF16);
  const auto plans = PlansFor(schedule, groups, subject);

  std::unique_ptr<executor::ModelRunner> runner;
  std::unique_ptr<executor::DecodeStepper> stepper;
  if (flags.random) {
    FQ_ASSIGN_OR_RETURN(stepper, executor::MakeDeviceStepper(flags.device));
  } else {
    FQ_ASSIGN_OR_RETURN(runner, executor::CreateRunner(*store, ExecutorOptionsOf(flags.embedded)));
    size_t longest = 0;
    for (const auto& window : plans) {
      longest = std::max(longest, window.size());
    }
    FQ_ASSIGN_OR_RETURN(stepper, executor::MakeRunnerStepper(*runner, subject.context, static_cast<int64_t>(longest)));
  }
  subject.device = stepper->device();
  Replay replay(schedule, policy, flags.embedded.lookahead, flags.device.repetitions, *stepper);
  FQ_ASSIGN_OR_RETURN(const Totals totals, replay.Run(plans));
  (flags.json ? PrintAsJson : PrintText)(flags, schedule, subject, policy, totals);
  return absl::OkStatus();
}

}  // namespace flexquant::cli
