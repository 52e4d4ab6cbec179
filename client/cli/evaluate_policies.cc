#include "client/cli/evaluate_policies.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numeric>
#include <random>
#include <tuple>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/cli/json_output.h"
#include "client/cli/policy_evaluation.h"
#include "client/cli/progress.h"
#include "common/status_macros.h"
#include "controller/layer_groups.h"
#include "controller/policy/policy_factory.h"

namespace flexquant::cli {
namespace {

constexpr char kShuffledSuffix[] = ":shuffled";
constexpr char kOracle[] = "oracle";
constexpr char kKlPrefix[] = "kl:";
constexpr char kBitsPrefix[] = "bits:";
constexpr char kGroup[] = "Policies";
constexpr size_t kResamples = 2'000;

// Plans given beforehand, in order.
class GivenPlans : public controller::PrecisionPolicy {
 public:
  explicit GivenPlans(absl::Span<const PrecisionPlan> plans) : plans_(plans) {}
  const PrecisionPlan& Next(uint32_t answer_index) override { return plans_[answer_index - 1]; }
  absl::string_view name() const override { return "shuffled"; }

 private:
  const absl::Span<const PrecisionPlan> plans_;
};

// One policy's figures.
struct Summary {
  std::string name;
  double mean_kl = 0;
  double low_kl = 0;  // 95 % interval of the mean
  double high_kl = 0;
  double median_kl = 0;
  double p99_kl = 0;
  double max_kl = 0;
  double agreement = 0;
  double perplexity = 0;
  double bytes = 0;      // a token
  double mean_bits = 0;  // such that the top precision's bytes are its bits
  uint64_t tokens = 0;
  double budget = 0;  // nats; 0 = none
  double within = 0;  // part of the windows whose mean KL is within it
};

// A word of --policy as flags of a request.
absl::Status NamePolicy(const std::string& name, RequestFlags& parameters) {
  absl::string_view value = name;
  auto* goal = absl::ConsumePrefix(&value, kKlPrefix)     ? &parameters.max_mean_kl
               : absl::ConsumePrefix(&value, kBitsPrefix) ? &parameters.target_bits
                                                          : nullptr;
  if (goal == nullptr) {
    parameters.precision = name;
    const std::string fault = CheckPrecision(name);
    return fault.empty() ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrCat("--policy: ", fault));
  }
  double number = 0;
  if (!absl::SimpleAtod(value, &number)) {
    return absl::InvalidArgumentError(absl::StrCat("--policy: '", name, "': '", value, "' is not a number"));
  }
  *goal = number;
  return absl::OkStatus();
}

absl::StatusOr<PolicyCase> MakeCase(const PolicyFlags& flags, const std::string& name,
                                    const controller::PolicyContext& context) {
  if (name == kOracle) {
    return PolicyCase{name, nullptr, context.ladder.levels, flags.oracle_kl};
  }
  RequestFlags parameters = flags.parameters;
  FQ_RETURN_IF_ERROR(NamePolicy(name, parameters));
  if (name != "dynamic") {
    parameters.entropy_high = parameters.hysteresis = parameters.pple_weight = std::nullopt;
  }
  if (name != "position") {
    parameters.tokens_per_level = std::nullopt;
  }
  const bool has_goal = parameters.max_mean_kl.has_value() || parameters.target_bits.has_value();
  if (name != "dynamic" && name != "position" && name != "random" && !has_goal) {
    parameters.min_bits = parameters.max_bits = std::nullopt;
  }
  auto request = std::make_shared<v1::GenerateRequest>();
  FQ_RETURN_IF_ERROR(FillRequest(parameters, *request));
  const uint64_t seed = flags.seed;
  // Refused here rather than in the middle of the run.
  FQ_RETURN_IF_ERROR(controller::MakePolicy(request->precision(), context, seed).status());
  PolicyCase made{
      name, [request, context, seed](size_t window) -> absl::StatusOr<std::unique_ptr<controller::PrecisionPolicy>> {
        FQ_ASSIGN_OR_RETURN(auto resolved, controller::MakePolicy(request->precision(), context, seed + window));
        return std::move(resolved.policy);
      }};
  made.budget = parameters.max_mean_kl.value_or(0);
  return made;
}

// The same plans, dealt to other tokens.
std::vector<std::vector<PrecisionPlan>> Shuffle(const std::vector<std::vector<PrecisionPlan>>& plans, uint64_t seed) {
  std::vector<PrecisionPlan> all;
  for (const auto& window : plans) {
    all.insert(all.end(), window.begin(), window.end());
  }
  std::mt19937_64 random(seed);
  for (size_t i = all.size(); i > 1; --i) {
    std::swap(all[i - 1], all[random() % i]);
  }
  std::vector<std::vector<PrecisionPlan>> dealt;
  auto next = all.begin();
  for (const auto& window : plans) {
    dealt.emplace_back(next, next + static_cast<std::ptrdiff_t>(window.size()));
    next += static_cast<std::ptrdiff_t>(window.size());
  }
  return dealt;
}

// 95 % of the means of windows drawn with repetition.
std::pair<double, double> Interval(const std::vector<std::vector<double>>& kl, uint64_t seed) {
  std::vector<std::pair<double, size_t>> windows;
  for (const auto& window : kl) {
    double sum = 0;
    for (const double x : window) {
      sum += x;
    }
    if (!window.empty()) {
      windows.emplace_back(sum, window.size());
    }
  }
  std::mt19937_64 random(seed);
  std::vector<double> means;
  for (size_t i = 0; i < kResamples; ++i) {
    double sum = 0;
    size_t count = 0;
    for (size_t j = 0; j < windows.size(); ++j) {
      const auto& drawn = windows[random() % windows.size()];
      sum += drawn.first;
      count += drawn.second;
    }
    means.push_back(sum / static_cast<double>(count));
  }
  std::sort(means.begin(), means.end());
  return {means[means.size() / 40], means[means.size() - 1 - means.size() / 40]};
}

// Part of the windows with tokens whose mean is at most `budget`.
double WithinBudget(const std::vector<std::vector<double>>& kl, double budget) {
  size_t count = 0;
  size_t within = 0;
  for (const std::vector<double>& window : kl) {
    const double sum = std::accumulate(window.begin(), window.end(), 0.0);
    count += window.empty() ? 0 : 1;
    within += !window.empty() && sum <= budget * static_cast<double>(window.size()) ? 1 : 0;
  }
  return static_cast<double>(within) / static_cast<double>(count);
}

Summary Summarise(const PolicyCase& c, const PolicyOutcome& outcome, const controller::LayerGroups& groups,
                  uint64_t seed) {
  Summary s{.name = c.name, .budget = c.budget};
  std::vector<double> all;
  double bytes = 0;
  for (size_t w = 0; w < outcome.kl.size(); ++w) {
    all.insert(all.end(), outcome.kl[w].begin(), outcome.kl[w].end());
    for (const PrecisionPlan& plan : outcome.plans[w]) {
      bytes += static_cast<double>(groups.BytesRead(plan));
    }
  }
  std::sort(all.begin(), all.end());
  const auto count = static_cast<double>(all.size());
  for (const double x : all) {
    s.mean_kl += x / count;
  }
  std::tie(s.low_kl, s.high_kl) = Interval(outcome.kl, seed);
  s.median_kl = all[all.size() / 2];
  s.p99_kl = all[static_cast<size_t>(0.99 * (count - 1))];
  s.max_kl = all.back();
  s.tokens = all.size();
  s.agreement = static_cast<double>(outcome.num_agreeing) / count;
  s.perplexity = std::exp(outcome.nll_nats / static_cast<double>(std::max<uint64_t>(1, outcome.num_scored)));
  s.bytes = bytes / count;
  s.within = WithinBudget(outcome.kl, s.budget);
  const PrecisionPlan top = PrecisionPlan::Uniform(kTopPrecision, groups.count());
  s.mean_bits = kTopPrecision * s.bytes / static_cast<double>(groups.BytesRead(top));
  return s;
}

// What the words of --policy name.
struct Cases {
  std::vector<PolicyCase> direct;
  std::vector<size_t> shuffled;  // of `direct`, whose plans are dealt to other tokens too
};

absl::StatusOr<Cases> MakeCases(const PolicyFlags& flags, const std::vector<std::string>& words,
                                const ModelStore& store, const controller::LayerGroups& groups) {
  FQ_ASSIGN_OR_RETURN(const auto calibration, store.ReadCalibration());
  const auto context = controller::MakePolicyContext(groups, /*has_reference=*/false, calibration, flags.lookahead);
  Cases cases;
  for (const std::string& word : words) {
    absl::string_view stem = word;
    const bool shuffled = absl::ConsumeSuffix(&stem, kShuffledSuffix);
    const std::string name(stem);
    auto of =
        std::find_if(cases.direct.begin(), cases.direct.end(), [&](const PolicyCase& c) { return c.name == name; });
    if (of == cases.direct.end()) {
      FQ_ASSIGN_OR_RETURN(auto made, MakeCase(flags, name, context));
      of = cases.direct.insert(of, std::move(made));
    }
    if (shuffled) {
      cases.shuffled.push_back(static_cast<size_t>(of - cases.direct.begin()));
    }
  }
  return cases;
}

// The direct cases in order, then the shuffled ones.
absl::StatusOr<std::vector<Summary>> RunCases(const PolicyFlags& flags, const Cases& cases,
                                              const std::vector<std::vector<uint32_t>>& windows,
                                              const controller::LayerGroups& groups, executor::ModelRunner& runner) {
  Progress progress("tokens");
  std::vector<Summary> summaries;
  const auto run = [&](const std::vector<PolicyCase>& these,
                       const char* what) -> absl::StatusOr<std::vector<PolicyOutcome>> {
    FQ_ASSIGN_OR_RETURN(auto outcomes,
                        RunPolicies(these, windows, flags.prompt_tokens, flags.lookahead, runner,
                                    [&](uint64_t done, uint64_t total) { progress.Update(done, total, what); }));
    for (size_t i = 0; i < these.size(); ++i) {
      summaries.push_back(Summarise(these[i], outcomes[i], groups, flags.seed));
    }
    return outcomes;
  };
  FQ_ASSIGN_OR_RETURN(const auto outcomes, run(cases.direct, "policies"));
  std::vector<PolicyCase> controls;
  for (const size_t of : cases.shuffled) {
    controls.push_back({absl::StrCat(cases.direct[of].name, kShuffledSuffix),
                        [plans = Shuffle(outcomes[of].plans, flags.seed)](size_t window) {
                          return std::make_unique<GivenPlans>(plans[window]);
                        }});
    controls.back().budget = cases.direct[of].budget;
  }
  if (!controls.empty()) {
    FQ_RETURN_IF_ERROR(run(controls, "controls").status());
  }
  return summaries;
}

void PrintText(const std::vector<Summary>& summaries, const TextWindowOptions& text, size_t num_windows) {
  std::printf("%s: %llu tokens in %zu windows of %zu, KL in nats to %d bits everywhere\n", text.text.c_str(),
              static_cast<unsigned long long>(summaries.front().tokens), num_windows, text.window, kTopPrecision);
  std::printf("%-18s %6s %9s %21s %9s %9s %9s %8s %10s\n", "policy", "bits*", "KL", "95 % interval", "median", "99 %",
              "largest", "top-1 %", "perplexity");
  for (const Summary& s : summaries) {
    std::printf("%-18s %6.3f %9.5f %10.5f-%10.5f %9.5f %9.5f %9.4f %8.2f %10.4f\n", s.name.c_str(), s.mean_bits,
                s.mean_kl, s.low_kl, s.high_kl, s.median_kl, s.p99_kl, s.max_kl, 100 * s.agreement, s.perplexity);
    if (s.budget > 0) {
      std::printf("%18s %.1f %% of the windows keep the budget of %g nats\n", "", 100 * s.within, s.budget);
    }
  }
  std::printf("* bytes read, as a share of those at %d bits, times %d\n", kTopPrecision, kTopPrecision);
}

void PrintAsJson(const std::vector<Summary>& summaries, const TextWindowOptions& text, size_t num_windows,
                 const ModelStore& store, const PolicyFlags& flags) {
  Json json = {{"model", store.model_name()},
               {"model_revision", store.revision()},
               {"text", text.text},
               {"window", text.window},
               {"windows", num_windows},
               {"prompt_tokens", flags.prompt_tokens},
               {"lookahead", flags.lookahead},
               {"seed", flags.seed}};
  for (const Summary& s : summaries) {
    json["policies"].push_back({{"policy", s.name},
                                {"tokens", s.tokens},
                                {"kl_mean", s.mean_kl},
                                {"kl_mean_low", s.low_kl},
                                {"kl_mean_high", s.high_kl},
                                {"kl_median", s.median_kl},
                                {"kl_p99", s.p99_kl},
                                {"kl_max", s.max_kl},
                                {"top1_agreement", s.agreement},
                                {"perplexity", s.perplexity},
                                {"weight_bytes_a_token", s.bytes},
                                {"mean_bits", s.mean_bits}});
    if (s.budget > 0) {
      json["policies"].back()["max_mean_kl"] = s.budget;
      json["policies"].back()["windows_within"] = s.within;
    }
  }
  PrintJson(json);
}

}  // namespace

void AddPolicyFlags(CLI::App& app, std::vector<std::string>& policies, PolicyFlags& flags) {
  const auto add = [&](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->group(kGroup);
  };
  add("--policy", policies,
      "Decode token by token under policies instead, and compare with the top precision; several with commas: 3 to 8, "
      "dynamic, random, position, plan:NAME; kl:NATS and bits:BITS = what --max-mean-kl and --target-bits do; oracle = "
      "for each token the fewest bits whose KL is small enough; "
      "NAME:shuffled = a policy's plans, dealt to other tokens")
      ->delimiter(',');
  add("--prompt-tokens", flags.prompt_tokens, "Tokens of each window that are read at the top precision first")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  add("--oracle-kl", flags.oracle_kl, "oracle: most nats of KL of a token")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add("--seed", flags.seed, "Seed of random, of shuffling and of the intervals")->capture_default_str();
  AddPolicyParameters(app, kGroup, flags.parameters);
}

absl::Status EvaluatePolicies(const PolicyFlags& flags, const std::vector<std::string>& policies,
                              const TextWindowOptions& text, const std::vector<std::vector<uint32_t>>& windows,
                              const ModelStore& store, executor::ModelRunner& runner, bool json) {
  if (std::none_of(windows.begin(), windows.end(),
                   [&](const auto& window) { return window.size() > flags.prompt_tokens + 1; })) {
    return absl::InvalidArgumentError(absl::StrCat("--prompt-tokens is ", flags.prompt_tokens,
                                                   "; the longest window of the text has ", windows.front().size(),
                                                   " tokens, of which at least two must be left"));
  }
  // No plan has 16 bits: the reference's type does not count.
  const controller::LayerGroups groups(store.config(), store.group_size(), Dtype::kBF16);
  FQ_ASSIGN_OR_RETURN(const Cases cases, MakeCases(flags, policies, store, groups));
  FQ_ASSIGN_OR_RETURN(const auto summaries, RunCases(flags, cases, windows, groups, runner));
  if (json) {
    PrintAsJson(summaries, text, windows.size(), store, flags);
  } else {
    PrintText(summaries, text, windows.size());
  }
  return absl::OkStatus();
}

}  // namespace flexquant::cli
