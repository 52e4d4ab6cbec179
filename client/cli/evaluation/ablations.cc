#include "client/cli/evaluation/ablations.h"

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/calibration/requirement_builder.h"
#include "common/status_macros.h"
#include "common/store/manifest.h"
#include "controller/policy/policies.h"
#include "controller/policy/policy_factory.h"

namespace flexquant::cli {
namespace {

constexpr char kTarget[] = "bits:6";
constexpr size_t kRungStep = 3;  // of the ladder's rungs, every third has random plans beside it
constexpr int kRandomPlans = 3;

struct Signals {
  const char* name;
  UsedFeatures used;
};
// In the order of RequirementFeatures: entropy, margin, top-1 probability, PPLE, entropy before.
constexpr std::array<Signals, 4> kSignals = {{{"none", {false, false, false, false, false}},
                                              {"entropy", {true, false, false, false, false}},
                                              {"entropy, margin, top-1", {true, true, true, false, false}},
                                              {"all", kAllFeatures}}};

// A policy whose plans never read more than the one before.
class OneWay : public controller::PrecisionPolicy {
 public:
  OneWay(std::unique_ptr<controller::PrecisionPolicy> policy, const controller::LayerGroups& groups)
      : policy_(std::move(policy)), groups_(groups) {}

  void Observe(const TokenSignals& signals) override { policy_->Observe(signals); }
  const PrecisionPlan& Next(uint32_t answer_index) override {
    const PrecisionPlan& next = policy_->Next(answer_index);
    if (plan_.bits.empty() || groups_.BytesRead(next) < groups_.BytesRead(plan_)) {
      plan_ = next;
    }
    return plan_;
  }
  std::optional<double> Charge(const PrecisionPlan& plan) override { return policy_->Charge(plan); }
  void SetBackend(const BackendSettings& settings) override { policy_->SetBackend(settings); }
  absl::string_view name() const override { return "one-way"; }

 private:
  const std::unique_ptr<controller::PrecisionPolicy> policy_;
  const controller::LayerGroups& groups_;
  PrecisionPlan plan_;
};

Json Ablation(const char* name, const char* words, Json comparisons) {
  return {{"name", name}, {"words", words}, {"comparisons", std::move(comparisons)}};
}

absl::StatusOr<std::vector<MeasuredPolicy>> Run(const ReportContext& context, const std::vector<PolicyCase>& cases,
                                                const std::vector<PolicyWindow>& windows,
                                                const std::string& scope = kWindowScope) {
  return MeasureCases(context, scope, cases, std::vector<std::string>(cases.size(), "ablation"), windows);
}

controller::PolicyContext PoliciesOf(const ReportContext& context, const Calibration& calibration, int lookahead) {
  return controller::MakePolicyContext(context.groups, /*has_reference=*/false, calibration, lookahead);
}

std::vector<const MeasuredPolicy*> Budgets(const std::vector<MeasuredPolicy>& measured) {
  return OfKind(measured, "budget");
}

// What moves from level to level: `dynamic` and the budgets.
std::vector<const MeasuredPolicy*> MovingPolicies(const std::vector<MeasuredPolicy>& measured) {
  std::vector<const MeasuredPolicy*> moving = OfKind(measured, "dynamic");
  const auto budgets = Budgets(measured);
  moving.insert(moving.end(), budgets.begin(), budgets.end());
  return moving;
}

// Policies named as `originals`, made of other parts: "NAME WORDS".
absl::StatusOr<std::vector<PolicyCase>> Changed(const std::vector<const MeasuredPolicy*>& originals,
                                                const PolicyFlags& flags, const controller::PolicyContext& policies,
                                                const std::string& words) {
  std::vector<PolicyCase> cases;
  for (const MeasuredPolicy* original : originals) {
    FQ_ASSIGN_OR_RETURN(auto c, MakePolicyCase(flags, original->name, policies));
    c.name = absl::StrCat(original->name, " ", words);
    cases.push_back(std::move(c));
  }
  return cases;
}

// Each of `cases` [originals] against the policy that it was, and against the static plans.
absl::StatusOr<Json> AgainstOriginals(const ReportContext& context, const std::vector<MeasuredPolicy>& measured,
                                      const std::vector<const MeasuredPolicy*>& originals,
                                      const std::vector<PolicyCase>& cases, const std::string& scope = kWindowScope) {
  FQ_ASSIGN_OR_RETURN(const auto changed, Run(context, cases, context.windows, scope));
  Json comparisons = Json::array();
  for (size_t i = 0; i < changed.size(); ++i) {
    comparisons.push_back(AgainstPolicy(changed[i], *originals[i]));
    comparisons.push_back(AgainstStatic(changed[i], StaticPlans(measured, "ladder"), "static mixed plans"));
  }
  return comparisons;
}

absl::StatusOr<Json> OtherLookahead(const ReportContext& context, const std::vector<MeasuredPolicy>& measured) {
  PolicyFlags flags = context.flags;
  flags.lookahead = 1 - context.flags.lookahead;
  const auto budgets = Budgets(measured);
  FQ_ASSIGN_OR_RETURN(const auto cases,
                      Changed(budgets, flags, PoliciesOf(context, context.calibration, flags.lookahead),
                              absl::StrCat("lookahead ", flags.lookahead)));
  FQ_ASSIGN_OR_RETURN(auto comparisons, AgainstOriginals(context, measured, budgets, cases));
  return Ablation("lookahead", "Budgets served at the other lookahead, with the requirement model fitted for it.",
                  std::move(comparisons));
}

absl::StatusOr<Json> NoHysteresis(const ReportContext& context, const std::vector<MeasuredPolicy>& measured) {
  PolicyFlags flags = context.flags;
  flags.parameters.hysteresis = 0;
  controller::PolicyContext policies = PoliciesOf(context, context.calibration, flags.lookahead);
  auto ladder = std::make_shared<controller::CalibratedLadder>(*policies.calibrated);
  ladder->hysteresis = 0;
  policies.calibrated = std::move(ladder);
  const auto moving = MovingPolicies(measured);
  FQ_ASSIGN_OR_RETURN(const auto cases, Changed(moving, flags, policies, "hysteresis 0"));
  FQ_ASSIGN_OR_RETURN(auto comparisons, AgainstOriginals(context, measured, moving, cases));
  return Ablation("hysteresis", "Policies that move at once.", std::move(comparisons));
}

absl::StatusOr<Json> OneWayOnly(const ReportContext& context, const std::vector<MeasuredPolicy>& measured) {
  const auto moving = MovingPolicies(measured);
  FQ_ASSIGN_OR_RETURN(
      auto cases,
      Changed(moving, context.flags, PoliciesOf(context, context.calibration, context.flags.lookahead), "one way"));
  for (PolicyCase& c : cases) {
    c.make = [make = c.make,
              &groups = context.groups](size_t window) -> absl::StatusOr<std::unique_ptr<controller::PrecisionPolicy>> {
      FQ_ASSIGN_OR_RETURN(auto made, make(window));
      return std::make_unique<OneWay>(std::move(made), groups);
    };
  }
  FQ_ASSIGN_OR_RETURN(auto comparisons, AgainstOriginals(context, measured, moving, cases));
  return Ablation("one way", "Policies whose plans never read more than the one before.", std::move(comparisons));
}

absl::StatusOr<Json> OtherText(const ReportContext& context, const std::vector<MeasuredPolicy>& measured) {
  const Calibration& other = *context.other_calibration;
  const std::string fitted = other.ToJson();
  const auto budgets = Budgets(measured);
  FQ_ASSIGN_OR_RETURN(const auto cases,
                      Changed(budgets, context.flags, PoliciesOf(context, other, context.flags.lookahead),
                              absl::StrCat("calibrated on ", other.text_name)));
  FQ_ASSIGN_OR_RETURN(auto comparisons,
                      AgainstOriginals(context, measured, budgets, cases,
                                       absl::StrCat(kWindowScope, " of ", Checksum(fitted.data(), fitted.size()))));
  return Ablation("calibration text", "Budgets with the ladder and the requirement model of another text.",
                  std::move(comparisons));
}

// Every second window, from the first or the second on.
template <typename T>
std::vector<T> Half(const std::vector<T>& all, size_t first) {
  std::vector<T> half;
  for (size_t i = first; i < all.size(); i += 2) {
    half.push_back(all[i]);
  }
  return half;
}

HoldoutSamples SamplesOf(const std::vector<MeasuredPolicy>& measured) {
  HoldoutSamples samples;
  const auto plans = StaticPlans(measured, "ladder");
  for (const WindowOutcome& window : Half(plans.back()->outcome, 0)) {
    samples.signals.push_back(window.signals);
  }
  for (size_t rung = 0; rung + 1 < plans.size(); ++rung) {
    samples.kl.emplace_back();
    for (const WindowOutcome& window : Half(plans[rung]->outcome, 0)) {
      samples.kl.back().insert(samples.kl.back().end(), window.kl.begin(), window.kl.end());
    }
  }
  return samples;
}

absl::StatusOr<Json> FewerSignals(const ReportContext& context, const std::vector<MeasuredPolicy>& measured) {
  const HoldoutSamples samples = SamplesOf(measured);
  std::vector<double> bytes;
  for (const Rung& rung : context.calibration.rungs) {
    bytes.push_back(static_cast<double>(rung.bytes));
  }
  const int lookahead = context.flags.lookahead;
  std::vector<PolicyCase> cases;
  for (const Signals& signals : kSignals) {
    Calibration calibration = context.calibration;
    calibration.requirements[static_cast<size_t>(lookahead)] =
        BuildRequirement(samples, bytes, lookahead, signals.used);
    FQ_ASSIGN_OR_RETURN(auto c, MakePolicyCase(context.flags, kTarget, PoliciesOf(context, calibration, lookahead)));
    c.name = absl::StrCat(kTarget, " signals ", signals.name);
    cases.push_back(std::move(c));
  }
  FQ_ASSIGN_OR_RETURN(const auto policies, Run(context, cases, Half(context.windows, 1), RunScope(context)));
  Json comparisons = Json::array();
  for (size_t i = 1; i < policies.size(); ++i) {
    comparisons.push_back(AgainstPolicy(policies[i], policies[0]));
  }
  return Ablation(
      "signals",
      "The precision requirement model with fewer features, fitted to the even windows of this text and run "
      "on the odd ones with a target of 6 bits, against the model without any.",
      std::move(comparisons));
}

// Layer groups lowered one step at a time in random order, down to the plan whose bytes are nearest to `bytes`.
PrecisionPlan RandomPlan(const controller::LayerGroups& groups, double bytes, std::mt19937_64& random) {
  PrecisionPlan plan = PrecisionPlan::Uniform(kTopPrecision, groups.count());
  while (true) {
    PrecisionPlan next = plan;
    std::vector<size_t> open;
    for (size_t group = 0; group < plan.bits.size(); ++group) {
      if (plan.bits[group] > kPrecisions.front()) {
        open.push_back(group);
      }
    }
    if (open.empty()) {
      return plan;
    }
    uint8_t& bits = next.bits[open[random() % open.size()]];
    bits = static_cast<uint8_t>(*(std::find(kPrecisions.begin(), kPrecisions.end(), bits) - 1));
    const double before = static_cast<double>(groups.BytesRead(plan)) - bytes;
    const double after = bytes - static_cast<double>(groups.BytesRead(next));
    if (after >= 0) {
      return after < before ? next : plan;
    }
    plan = std::move(next);
  }
}

absl::StatusOr<Json> RandomLadder(const ReportContext& context, const std::vector<MeasuredPolicy>& measured) {
  std::mt19937_64 random(context.flags.seed);
  std::vector<PolicyCase> cases;
  for (int draw = 1; draw <= kRandomPlans; ++draw) {
    for (size_t rung = 1; rung + 1 < context.calibration.rungs.size(); rung += kRungStep) {
      const PrecisionPlan plan =
          RandomPlan(context.groups, static_cast<double>(context.calibration.rungs[rung].bytes), random);
      cases.push_back({absl::StrCat("random plan ", draw, " of rung-", rung, "'s bytes"),
                       [plan](size_t) { return std::make_unique<controller::StaticPolicy>(plan, "plan"); }});
    }
  }
  if (cases.empty()) {
    return Ablation("ladder", "Too few rungs.", Json::array());
  }
  FQ_ASSIGN_OR_RETURN(const auto plans, Run(context, cases, context.windows));
  Json comparisons = Json::array();
  for (const MeasuredPolicy& plan : plans) {
    comparisons.push_back(AgainstStatic(plan, StaticPlans(measured, "ladder"), "static mixed plans"));
    comparisons.push_back(AgainstStatic(plan, StaticPlans(measured, "uniform"), "static uniform"));
  }
  return Ablation("ladder", "Static plans of rungs' bytes, layer groups lowered in random order instead of by KL.",
                  std::move(comparisons));
}

}  // namespace

absl::StatusOr<Json> ReportAblations(const ReportContext& context, const std::vector<MeasuredPolicy>& measured) {
  Json ablations = Json::array();
  const PolicyWindow& first = context.windows.front();
  // Two windows to fit to and two to run on. All but the last are as long as the first.
  const bool enough = context.windows.size() >= 4 && first.tokens.size() - first.prompt_tokens >= kMinHoldoutPositions;
  for (const auto& ablation : {OtherLookahead, OneWayOnly, NoHysteresis, FewerSignals, RandomLadder, OtherText}) {
    if ((ablation == FewerSignals && !enough) || (ablation == OtherText && !context.other_calibration.has_value())) {
      continue;
    }
    FQ_ASSIGN_OR_RETURN(auto described, ablation(context, measured));
    ablations.push_back(std::move(described));
  }
  return ablations;
}

}  // namespace flexquant::cli
