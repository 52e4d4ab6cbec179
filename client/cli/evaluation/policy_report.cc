#include "client/cli/evaluation/policy_report.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/cli/evaluation/measurement.h"
#include "client/cli/interrupt.h"
#include "common/status_macros.h"
#include "controller/policy/policy_factory.h"

namespace flexquant::cli {
namespace {

constexpr char kAgainSuffix[] = "-2";
constexpr std::array<std::pair<const char*, const char*>, 2> kStaticPlans = {
    {{"ladder", "static mixed plans"}, {"uniform", "static uniform"}}};
constexpr size_t kClaimWindows = 20;
constexpr double kRequestsWithin = 0.95;  // that a budget promises

struct Cases {
  std::vector<PolicyCase> cases;
  std::vector<std::string> kinds;
};

// Every policy that needs no other one's run.
absl::StatusOr<Cases> DirectCases(const ReportContext& context) {
  const auto policies = controller::MakePolicyContext(context.groups, /*has_reference=*/false, context.calibration,
                                                      context.flags.lookahead);
  Cases made;
  const auto add = [&](const std::string& kind, const std::string& name) -> absl::Status {
    FQ_ASSIGN_OR_RETURN(auto c, MakePolicyCase(context.flags, name, policies));
    made.cases.push_back(std::move(c));
    made.kinds.push_back(kind);
    return absl::OkStatus();
  };
  for (const int bits : kPrecisions) {
    FQ_RETURN_IF_ERROR(add("uniform", absl::StrCat(bits)));
  }
  // The last rung is 8 bits everywhere.
  for (size_t rung = 0; rung + 1 < context.calibration.rungs.size(); ++rung) {
    FQ_RETURN_IF_ERROR(add("ladder", absl::StrCat("plan:rung-", rung)));
  }
  FQ_RETURN_IF_ERROR(add("position", "position"));
  FQ_RETURN_IF_ERROR(add("dynamic", "dynamic"));
  for (const double budget : context.budgets) {
    FQ_RETURN_IF_ERROR(add("budget", absl::StrCat("kl:", budget)));
  }
  return made;
}

Cases Controls(const ReportContext& context, const Cases& direct, const std::vector<MeasuredPolicy>& measured) {
  Cases made;
  for (size_t i = 0; i < direct.cases.size(); ++i) {
    if (direct.kinds[i] == "budget" || direct.kinds[i] == "dynamic") {
      // Not the same luck for all policies.
      const uint64_t seed = context.flags.seed + 3 * i;
      made.cases.push_back(ShuffledControl(direct.cases[i], measured[i].outcome, seed));
      made.cases.push_back(ShuffledControl(direct.cases[i], measured[i].outcome, seed + 1));
      made.cases.back().name += kAgainSuffix;
      made.cases.push_back(RandomControl(direct.cases[i], measured[i].outcome, seed + 2));
      made.kinds.insert(made.kinds.end(), {"shuffled", "shuffled", "random"});
    }
  }
  return made;
}

// At the prices of KL that the precision requirement model would aim at the budgets with.
Cases Oracles(const ReportContext& context) {
  Cases made;
  Oracle oracle;
  for (const Rung& rung : context.calibration.rungs) {
    oracle.levels.push_back(rung.plan);
    oracle.bytes.push_back(static_cast<double>(rung.bytes));
  }
  for (const double budget : context.budgets) {
    oracle.bytes_a_nat = context.calibration.requirements[0].LambdaForKl(budget);
    made.cases.push_back({absl::StrCat("oracle:", budget), nullptr, 0, oracle});
    made.kinds.emplace_back("oracle");
  }
  return made;
}

const MeasuredPolicy* Named(const std::vector<MeasuredPolicy>& policies, const std::string& name) {
  const auto found =
      std::find_if(policies.begin(), policies.end(), [&](const MeasuredPolicy& p) { return p.name == name; });
  return found == policies.end() ? nullptr : &*found;
}

// The same policies on the first `windows` windows only.
std::vector<MeasuredPolicy> Shortened(const ReportContext& context, const std::vector<const MeasuredPolicy*>& policies,
                                      size_t windows) {
  const Resampler resampler(windows, context.flags.seed);
  std::vector<MeasuredPolicy> made;
  for (const MeasuredPolicy* policy : policies) {
    PolicyOutcome outcome(policy->outcome.begin(), policy->outcome.begin() + static_cast<std::ptrdiff_t>(windows));
    PolicyFigures figures = ComputeFigures(outcome, policy->budget, context.groups, resampler);
    made.push_back({policy->name, policy->kind, policy->budget, std::move(outcome), std::move(figures)});
  }
  return made;
}

std::vector<const MeasuredPolicy*> Pointers(const std::vector<MeasuredPolicy>& policies) {
  std::vector<const MeasuredPolicy*> pointers;
  for (const MeasuredPolicy& policy : policies) {
    pointers.push_back(&policy);
  }
  return pointers;
}

// Few windows give intervals that are too narrow.
bool Below1(const Json& comparison) {
  const Json& high = comparison["kl_ratio"]["high_99"];
  return comparison["windows"] >= kClaimWindows && high.is_number() && high.get<double>() < 1;
}

void AddClaim(const std::string& policy, const std::string& claim, bool holds, Json& report) {
  report["claims"].push_back({{"policy", policy}, {"claim", claim}, {"holds", holds}});
}

// Both dealings of a policy's plans as one: one alone is lucky or not.
MeasuredPolicy BothShuffled(const std::vector<MeasuredPolicy>& policies, const MeasuredPolicy& policy) {
  absl::string_view stem = policy.name;
  absl::ConsumeSuffix(&stem, kRandomSuffix);
  const std::string name = absl::StrCat(stem, kShuffledSuffix);
  const MeasuredPolicy& once = *Named(policies, name);
  const MeasuredPolicy& again = *Named(policies, name + kAgainSuffix);
  const auto mean = [](const Figures& a, const Figures& b) {
    Figures figures;
    figures.mean_kl = (a.mean_kl + b.mean_kl) / 2;
    figures.bytes = (a.bytes + b.bytes) / 2;
    return figures;
  };
  MeasuredPolicy both{name, once.kind, 0, {}, {mean(once.figures.all, again.figures.all), {}}};
  for (size_t i = 0; i < once.figures.draws.size(); ++i) {
    both.figures.draws.push_back(mean(once.figures.draws[i], again.figures.draws[i]));
  }
  return both;
}

// What is claimed of every policy that moves by signals. Their random controls are put to the same test, which they
// have to fail: else it shows nothing.
void Compare(const std::vector<MeasuredPolicy>& policies, const MeasuredPolicy& policy, Json& report) {
  const Json signals = AgainstPolicy(policy, BothShuffled(policies, policy));
  report["comparisons"].push_back(signals);
  AddClaim(policy.name, "less KL than its plans dealt to other tokens", Below1(signals), report);
  for (const auto& [kind, name] : kStaticPlans) {
    const Json against = AgainstStatic(policy, StaticPlans(policies, kind), name);
    report["comparisons"].push_back(against);
    AddClaim(policy.name, absl::StrCat("less KL than ", name, " of the same bytes"), Below1(against), report);
  }
  if (policy.kind == "budget") {
    const Figures& all = policy.figures.all;
    AddClaim(policy.name, "mean KL within the budget", all.mean_kl <= policy.budget, report);
    if (all.requests > 0) {
      AddClaim(policy.name, absl::StrCat("budget kept by 95 % of the requests of ", kRequestTokens, " or more tokens"),
               all.within >= kRequestsWithin, report);
    }
  }
}

}  // namespace

std::vector<const MeasuredPolicy*> OfKind(const std::vector<MeasuredPolicy>& policies, const std::string& kind) {
  std::vector<const MeasuredPolicy*> found;
  for (const MeasuredPolicy& policy : policies) {
    if (policy.kind == kind) {
      found.push_back(&policy);
    }
  }
  return found;
}

std::vector<const MeasuredPolicy*> StaticPlans(const std::vector<MeasuredPolicy>& policies, const std::string& kind) {
  auto plans = OfKind(policies, kind);
  if (kind == "ladder") {
    plans.push_back(Named(policies, absl::StrCat(kTopPrecision)));
  }
  return plans;
}

std::string RunScope(const ReportContext& context) {
  size_t tokens = 0;
  for (const PolicyWindow& window : context.windows) {
    tokens += window.tokens.size();
  }
  // Budgets because the controls' seeds follow the order of the policies.
  return absl::StrCat(kWindowScope, " of ", tokens, " tokens and budgets ", absl::StrJoin(context.budgets, " "));
}

absl::StatusOr<std::vector<MeasuredPolicy>> MeasureCases(const ReportContext& context, const std::string& scope,
                                                         const std::vector<PolicyCase>& cases,
                                                         const std::vector<std::string>& kinds,
                                                         const std::vector<PolicyWindow>& windows) {
  FQ_ASSIGN_OR_RETURN(auto outcomes, Measure(scope, cases, windows, context.runners, context.log));
  const Resampler resampler(windows.size(), context.flags.seed);
  std::vector<MeasuredPolicy> measured;
  for (size_t i = 0; i < cases.size(); ++i) {
    FQ_RETURN_IF_ERROR(Interrupt::Check());
    PolicyFigures figures = ComputeFigures(outcomes[i], cases[i].budget, context.groups, resampler);
    measured.push_back({cases[i].name, kinds[i], cases[i].budget, std::move(outcomes[i]), std::move(figures)});
  }
  return measured;
}

absl::StatusOr<std::vector<MeasuredPolicy>> MeasurePolicies(const ReportContext& context) {
  FQ_ASSIGN_OR_RETURN(const Cases direct, DirectCases(context));
  FQ_ASSIGN_OR_RETURN(auto measured, MeasureCases(context, kWindowScope, direct.cases, direct.kinds, context.windows));
  const auto run = [&](const std::string& scope, const Cases& more,
                       const std::vector<PolicyWindow>& windows) -> absl::Status {
    FQ_ASSIGN_OR_RETURN(auto also, MeasureCases(context, scope, more.cases, more.kinds, windows));
    std::move(also.begin(), also.end(), std::back_inserter(measured));
    return absl::OkStatus();
  };
  FQ_RETURN_IF_ERROR(run(RunScope(context), Controls(context, direct, measured), context.windows));
  const size_t few = std::min(context.oracle_windows, context.windows.size());
  if (few > 0) {
    FQ_RETURN_IF_ERROR(run(kWindowScope, Oracles(context),
                           {context.windows.begin(), context.windows.begin() + static_cast<std::ptrdiff_t>(few)}));
  }
  return measured;
}

void DescribePolicies(const ReportContext& context, const std::vector<MeasuredPolicy>& policies, Json& report) {
  for (const char* part : {"policies", "comparisons", "claims", "prediction"}) {
    report[part] = Json::array();
  }
  for (const MeasuredPolicy& policy : policies) {
    report["policies"].push_back(FiguresToJson(policy, context.groups));
  }
  const Resampler resampler(context.windows.size(), context.flags.seed);
  for (const char* kind : {"budget", "dynamic", "random"}) {
    for (const MeasuredPolicy* policy : OfKind(policies, kind)) {
      Compare(policies, *policy, report);
    }
  }
  for (const MeasuredPolicy* policy : OfKind(policies, "budget")) {
    report["prediction"].push_back(PredictionToJson(*policy, resampler));
  }
  const auto oracles = OfKind(policies, "oracle");
  if (!oracles.empty()) {
    // On the windows that the oracle saw, the model's policies beside it.
    const size_t few = oracles.front()->outcome.size();
    const auto budgets = Shortened(context, OfKind(policies, "budget"), few);
    for (const auto& [kind, name] : kStaticPlans) {
      const auto plans = Shortened(context, StaticPlans(policies, kind), few);
      for (const auto& group : {oracles, Pointers(budgets)}) {
        for (const MeasuredPolicy* policy : group) {
          report["oracle_comparisons"].push_back(AgainstStatic(*policy, Pointers(plans), name));
        }
      }
    }
  }
  const auto budgets = OfKind(policies, "budget");
  report["trace"] = TraceToJson(*budgets[budgets.size() / 2], context.groups);
}

}  // namespace flexquant::cli
