#include "client/cli/evaluate_policies.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/strip.h"
#include "client/cli/json_output.h"
#include "client/cli/policy_figures.h"
#include "client/cli/progress.h"
#include "common/status_macros.h"
#include "controller/layer_groups.h"

namespace flexquant::cli {
namespace {

constexpr char kGroup[] = "Policies";

// One policy's figures.
struct Summary {
  std::string name;
  double budget = 0;  // nats; 0 = none
  PolicyFigures figures;
  Interval mean_kl;
  double mean_bits = 0;
};

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
      FQ_ASSIGN_OR_RETURN(auto made, MakePolicyCase(flags, name, context));
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
                                              const std::vector<PolicyWindow>& windows,
                                              const controller::LayerGroups& groups, const PolicyRunners& runners) {
  Progress progress("tokens");
  uint64_t total = 0;
  for (const PolicyWindow& window : windows) {
    total += window.tokens.size() - window.prompt_tokens;
  }
  const Resampler resampler(windows.size(), flags.seed);
  std::vector<Summary> summaries;
  const auto run = [&](const std::vector<PolicyCase>& these,
                       const char* what) -> absl::StatusOr<std::vector<PolicyOutcome>> {
    FQ_ASSIGN_OR_RETURN(auto outcomes, RunPolicies(these, windows, runners,
                                                   [&](uint64_t done) { progress.Update(done, total, what); }));
    for (size_t i = 0; i < these.size(); ++i) {
      Summary s{these[i].name, these[i].budget, ComputeFigures(outcomes[i], these[i].budget, groups, resampler), {}, 0};
      s.mean_kl = s.figures.Of([](const Figures& figures) { return figures.mean_kl; });
      s.mean_bits = s.figures.all.MeanBits(groups);
      summaries.push_back(std::move(s));
    }
    return outcomes;
  };
  FQ_ASSIGN_OR_RETURN(const auto outcomes, run(cases.direct, "policies"));
  std::vector<PolicyCase> controls;
  for (const size_t of : cases.shuffled) {
    controls.push_back(ShuffledControl(cases.direct[of], outcomes[of], flags.seed));
  }
  if (!controls.empty()) {
    FQ_RETURN_IF_ERROR(run(controls, "controls").status());
  }
  return summaries;
}

void PrintText(const std::vector<Summary>& summaries, const TextWindowOptions& text, size_t num_windows) {
  std::printf("%s: %llu tokens in %zu windows of %zu, KL in nats to %d bits everywhere\n", text.text.c_str(),
              static_cast<unsigned long long>(summaries.front().figures.all.tokens), num_windows, text.window,
              kTopPrecision);
  std::printf("%-18s %6s %9s %21s %9s %9s %9s %8s %10s\n", "policy", "bits*", "KL", "95 % interval", "median", "99 %",
              "largest", "top-1 %", "perplexity");
  for (const Summary& s : summaries) {
    const Figures& f = s.figures.all;
    std::printf("%-18s %6.3f %9.5f %10.5f-%10.5f %9.5f %9.5f %9.4f %8.2f %10.4f\n", s.name.c_str(), s.mean_bits,
                f.mean_kl, s.mean_kl.low, s.mean_kl.high, f.median_kl, f.p99_kl, f.max_kl, 100 * f.agreement,
                f.perplexity);
    if (s.budget > 0 && f.requests > 0) {
      std::printf("%18s %.1f %% of the windows keep the budget of %g nats\n", "", 100 * f.within, s.budget);
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
    const Figures& f = s.figures.all;
    json["policies"].push_back({{"policy", s.name},
                                {"tokens", f.tokens},
                                {"kl_mean", f.mean_kl},
                                {"kl_mean_low", s.mean_kl.low},
                                {"kl_mean_high", s.mean_kl.high},
                                {"kl_median", f.median_kl},
                                {"kl_p99", f.p99_kl},
                                {"kl_max", f.max_kl},
                                {"top1_agreement", f.agreement},
                                {"perplexity", f.perplexity},
                                {"weight_bytes_a_token", f.bytes},
                                {"mean_bits", s.mean_bits}});
    if (s.budget > 0 && f.requests > 0) {
      json["policies"].back()["max_mean_kl"] = s.budget;
      json["policies"].back()["windows_within"] = f.within;
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
                              const ModelStore& store, const PolicyRunners& runners, bool json) {
  FQ_ASSIGN_OR_RETURN(const auto prompted, WithPrompts(windows, flags.prompt_tokens));
  // No plan has 16 bits: the reference's type does not count.
  const controller::LayerGroups groups(store.config(), store.group_size(), Dtype::kBF16);
  FQ_ASSIGN_OR_RETURN(const Cases cases, MakeCases(flags, policies, store, groups));
  FQ_ASSIGN_OR_RETURN(const auto summaries, RunCases(flags, cases, prompted, groups, runners));
  if (json) {
    PrintAsJson(summaries, text, prompted.size(), store, flags);
  } else {
    PrintText(summaries, text, prompted.size());
  }
  return absl::OkStatus();
}

}  // namespace flexquant::cli
